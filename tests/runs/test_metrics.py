"""A run's files: equal runs write equal ones, and they read back."""

import json

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from configs import base
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.types import EpisodeResult
from dynvgd_jax.runs.metrics import MetricsLog
from dynvgd_jax.runs.settings import read_config, versions
from tests.support.threads import no_threads_left

EPISODES = [
    EpisodeResult(11, True, False, -93.0, 300, False),
    EpisodeResult(12, False, False, np.float32(-300.1), 300, True),
]


def read_scalars(folder):
    """Parses TensorBoard's record format: length, its CRC, the event, its CRC."""
    points = []
    for path in folder.glob("events.*"):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + size])
            points += [
                (event.step, v.tag, v.simple_value)
                for v in event.summary.value
                if v.WhichOneof("value") == "simple_value"
            ]
            data = data[16 + size :]
    return points


def test_scalars_are_on_the_disk_at_once(tmp_path):
    with MetricsLog(tmp_path / "run", base.get_config()) as log:
        log.scalars(320, {"train/critic_loss": np.float32(0.5), "guide/cosine": 1})
        log.scalars(640, {"train/critic_loss": 0.25})
        assert read_scalars(tmp_path / "run") == [
            (320, "train/critic_loss", 0.5),
            (320, "guide/cosine", 1.0),
            (640, "train/critic_loss", 0.25),
        ]


def test_eval_csv_by_hand(tmp_path):
    with MetricsLog(tmp_path, base.get_config()) as log:
        log.episodes(0, "base/randn", EPISODES[:1])
        log.episodes(24_000, "dynvgd/tanh_randn", EPISODES[1:])
    assert (tmp_path / "eval.csv").read_text() == (
        "control_steps,policy,seed,success_any,success_chunk,return,length\n"
        "0,base/randn,11,1,0,-93.0,300\n"
        "24000,dynvgd/tanh_randn,12,0,0,-300.1000061035156,300\n"
    )


def test_configuration_reads_back_equal_and_locked(tmp_path):
    config = base.get_config()
    config.eval.noises = ("randn", "tanh_randn")
    MetricsLog(tmp_path, config).close()
    restored = read_config(tmp_path)
    assert restored.to_dict() == config.to_dict()
    with pytest.raises(AttributeError):
        restored.sede = 1


def test_versions_are_those_installed(tmp_path):
    MetricsLog(tmp_path, base.get_config()).close()
    written = json.loads((tmp_path / "versions.json").read_text())
    assert written == versions()
    assert written["numpy"] == np.__version__
    assert {"python", "jax", "mujoco", "robosuite", "git_commit"} <= set(written)


def test_bad_folders_are_refused(tmp_path):
    MetricsLog(tmp_path / "run", base.get_config()).close()
    before = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(UserError, match="holds a run already"):
        MetricsLog(tmp_path / "run", base.get_config())
    assert (tmp_path / "run" / "config.json").read_bytes() == before
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to"):
        MetricsLog(tmp_path / "file" / "run", base.get_config())
    with pytest.raises(UserError, match="no run folder"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        read_config(tmp_path)


def test_close_leaves_no_thread(tmp_path):
    with no_threads_left():
        MetricsLog(tmp_path, base.get_config()).close()
