"""A run that was broken off and resumed equals one that was not, bit for bit."""

import json
import shutil

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dynvgd_jax.errors import UserError
from dynvgd_jax.resume import compare_configs
from dynvgd_jax.runs import checkpoint
from dynvgd_jax.runs.metrics import read_config
from dynvgd_jax.runs.replay_log import ReplayLog
from dynvgd_jax.train import train
from tests.reach import ReachEnv
from tests.test_train import VECTOR_STEP, random_policy, tiny

CAPACITY = 30  # overwritten from vector step 16 on
CHANGES = {  # several checkpoints, none of them where something is logged
    "checkpoint.every_env_steps": 5 * VECTOR_STEP,
    "replay.capacity": CAPACITY,
}


class PowerCutError(Exception):
    """What breaks a run off."""


def breaking(after_steps: int):
    """Environments of which one breaks off the run after so many chunks."""
    steps = 0

    class Breaking(ReachEnv):
        def step(self, indices, actions):
            nonlocal steps
            steps += 1
            if steps > after_steps:
                raise PowerCutError
            return super().step(indices, actions)

    return Breaking


def scalars(folder):
    """All TensorBoard points but the clock's."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        name: [(p.step, p.value) for p in events.Scalars(name)]
        for name in events.Tags()["scalars"]
        if not name.startswith("time/")
    }


def notes_of(folder, steps):
    return json.loads(
        json.loads((folder / "resume" / f"{steps}.json").read_text())["notes"]
    )


def arrays(folder, steps):
    """Everything of fixed size in a checkpoint, and the replay buffer's content."""
    found = {}
    for kind in ("checkpoints", "resume"):
        place = folder / kind / str(steps)
        leaves, _ = checkpoint._read_manifest(place)
        read = checkpoint._read_arrays(place, leaves)
        found |= {f"{kind}/{name}": value for name, value in read.items()}
    log = ReplayLog(folder / "replay", CAPACITY, notes_of(folder, steps)["segments"])
    found |= log.read(CAPACITY, 4, 8)._asdict() | {"total": log.total}
    return found


@pytest.fixture(scope="module")
def policy(tmp_path_factory, compilation_cache):
    return random_policy(tmp_path_factory.mktemp("policy") / "policy")


@pytest.fixture(scope="module")
def unbroken(policy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    train(tiny(policy, **CHANGES), folder, make_env=ReachEnv)
    return folder


def assert_equal_runs(found, expected):
    last = 24 * VECTOR_STEP
    assert scalars(found) == scalars(expected)
    assert (found / "eval.csv").read_bytes() == (expected / "eval.csv").read_bytes()
    want, got = arrays(expected, last), arrays(found, last)
    assert want.keys() == got.keys() and any("env" in name for name in want)
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)
    notes, other = notes_of(found, last), notes_of(expected, last)
    for name in ("pending", "recent", "summaries", "to_evaluate"):
        assert notes[name] == other[name]


# Chunks: 16 of the base evaluations, 24 of training, 8 of each of two evaluations.
def test_a_run_broken_in_its_evaluation_goes_on_bit_for_bit(policy, unbroken, tmp_path):
    config = tiny(policy, **CHANGES)
    with pytest.raises(PowerCutError):
        train(config, tmp_path / "run", make_env=breaking(16 + 8 + 24 + 3))
    train(config, tmp_path / "run", make_env=ReachEnv, resume=True)
    assert_equal_runs(tmp_path / "run", unbroken)


def test_a_run_that_breaks_again_with_a_damaged_checkpoint_goes_on_bit_for_bit(
    policy, unbroken, tmp_path, caplog
):
    config = tiny(policy, **CHANGES)
    with pytest.raises(PowerCutError):
        train(config, tmp_path / "run", make_env=breaking(16 + 8 + 22))
    newest = tmp_path / "run" / "checkpoints" / str(20 * VECTOR_STEP)
    damaged = next(p for p in newest.rglob("*") if p.is_file() and p.stat().st_size)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(PowerCutError):
        train(config, tmp_path / "run", make_env=breaking(2), resume=True)
    assert f"checkpoint {20 * VECTOR_STEP} cannot be used" in caplog.text
    train(config, tmp_path / "run", make_env=ReachEnv, resume=True)
    assert_equal_runs(tmp_path / "run", unbroken)


def test_a_damaged_replay_segment_is_named(policy, unbroken, tmp_path, caplog):
    folder = shutil.copytree(unbroken, tmp_path / "run")
    segment = folder / "replay" / "22-30.npy"
    segment.write_bytes(segment.read_bytes()[:-4] + b"oops")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match="no sound checkpoint"):
        train(tiny(policy, **CHANGES), folder, make_env=ReachEnv, resume=True)
    assert "22-30.npy is damaged" in caplog.text
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_longer_budget_goes_on_another_task_does_not(unbroken):
    config = read_config(unbroken).copy_and_resolve_references().unlock()
    config.total_env_steps *= 2
    steps = 24 * VECTOR_STEP
    changes = [f"config.total_env_steps: {steps} -> {2 * steps}"]
    assert compare_configs(unbroken, config) == changes
    config.critic.width = 32
    with pytest.raises(UserError, match=r"config.critic.width: 16 -> 32; give the old"):
        compare_configs(unbroken, config)


def test_nothing_to_resume(policy, tmp_path):
    config = tiny(policy, **CHANGES)
    with pytest.raises(UserError, match="no run folder"):
        train(config, tmp_path / "none", make_env=ReachEnv, resume=True)
    (tmp_path / "eval.csv").write_text("much,else\n" * 10)
    with pytest.raises(UserError, match=r"holds no config\.json"):
        train(config, tmp_path, make_env=ReachEnv, resume=True)


def test_a_run_broken_in_its_first_evaluation_keeps_what_it_has(
    policy, unbroken, tmp_path
):
    config = tiny(policy, **CHANGES)
    with pytest.raises(PowerCutError):  # while the base policy is evaluated again
        train(config, tmp_path / "run", make_env=breaking(8 + 3))
    assert (tmp_path / "run" / "eval.csv").read_text().count("base/") == 3
    chunks = 8 + 24 + 2 * 8
    train(config, tmp_path / "run", make_env=breaking(chunks), resume=True)
    assert_equal_runs(tmp_path / "run", unbroken)


@pytest.mark.parametrize("left", [(), ("config.json",), ("config.json", "policy")])
def test_a_run_without_any_checkpoint_begins_anew(policy, unbroken, tmp_path, left):
    """Died while it was setting up its folder."""
    for name in left:
        copy = shutil.copytree if (unbroken / name).is_dir() else shutil.copy
        copy(unbroken / name, tmp_path / name)
    (tmp_path / "events.out.tfevents.1.x").write_bytes(b"torn")
    (tmp_path / "eval.csv").write_text("control_st")
    train(tiny(policy, **CHANGES), tmp_path, make_env=ReachEnv, resume=True)
    assert_equal_runs(tmp_path, unbroken)
