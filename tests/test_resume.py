"""A run that was broken off and resumed equals one that was not, bit for bit."""

import json
import shutil

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dynvgd_jax.errors import UserError
from dynvgd_jax.resume import compare_configs
from dynvgd_jax.runs.metrics import read_config
from dynvgd_jax.train import train
from tests.reach import ReachEnv
from tests.test_train import VECTOR_STEP, random_policy, tiny

CHANGES = {  # several checkpoints, none of them where something is logged
    "checkpoint.every_env_steps": 5 * VECTOR_STEP,
    "replay.capacity": 30,  # overwritten from vector step 16 on
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


def contents(folder, steps):
    """Shapes and values of everything that a checkpoint holds."""
    manifests = [
        json.loads((folder / kind / str(steps) / "manifest.json").read_text())
        for kind in ("checkpoints", "resume")
    ]
    notes = json.loads((folder / "resume" / f"{steps}.json").read_text())["notes"]
    return [m["leaves"] for m in manifests], json.loads(notes)


def arrays(folder, steps):
    from dynvgd_jax.runs import checkpoint

    found = {}
    for kind in ("checkpoints", "resume"):
        place = folder / kind / str(steps)
        leaves, _ = checkpoint._read_manifest(place)
        read = checkpoint._read_arrays(place, leaves)
        found |= {f"{kind}/{name}": value for name, value in read.items()}
    return found


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return random_policy(tmp_path_factory.mktemp("policy") / "policy")


@pytest.fixture(scope="module")
def unbroken(policy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    train(tiny(policy, **CHANGES), folder, make_env=ReachEnv)
    return folder


def transitions(folder):
    segments = contents(folder, 24 * VECTOR_STEP)[1]["segments"]
    return np.concatenate([np.load(folder / "replay" / s["name"]) for s in segments])


def assert_equal_runs(found, expected):
    last = 24 * VECTOR_STEP
    assert scalars(found) == scalars(expected)
    assert (found / "eval.csv").read_bytes() == (expected / "eval.csv").read_bytes()
    want, got = arrays(expected, last), arrays(found, last)
    assert want.keys() == got.keys() and any("env" in name for name in want)
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)
    np.testing.assert_array_equal(transitions(found), transitions(expected))
    notes, other = contents(found, last)[1], contents(expected, last)[1]
    for name in ("pending", "recent", "summaries"):
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
    segment = folder / "replay" / "0-22.npy"
    segment.write_bytes(segment.read_bytes()[:-4] + b"oops")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match="no sound checkpoint"):
        train(tiny(policy, **CHANGES), folder, make_env=ReachEnv, resume=True)
    assert "0-22.npy is damaged" in caplog.text
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
        train(config, tmp_path, make_env=ReachEnv, resume=True)
    with pytest.raises(PowerCutError):  # while the base policy is evaluated
        train(config, tmp_path / "run", make_env=breaking(3))
    with pytest.raises(UserError, match="no sound checkpoint"):
        train(config, tmp_path / "run", make_env=ReachEnv, resume=True)
