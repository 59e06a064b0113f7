"""Whether two finished runs are the same, bit for bit."""

import json

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dynvgd_jax.agent import POLICY
from dynvgd_jax.diffusion.policy_files import load_policy
from dynvgd_jax.replay.log import ReplayLog
from dynvgd_jax.replay.ring import example_transition
from dynvgd_jax.runs import checkpoint
from dynvgd_jax.runs.settings import read_config
from dynvgd_jax.steering.methods import build_method


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
    config, policy = read_config(folder), load_policy(folder / POLICY)
    capacity = config.replay.capacity
    log = ReplayLog(folder / "replay", capacity, notes_of(folder, steps)["segments"])
    if log.total:
        # a buffer of millions of slots would be gigabytes of zeros
        capacity = min(capacity, max(log.total, 1_000))
        flat_dim = policy.chunk_len * policy.action_dim
        method = build_method(config, policy)
        extras = (method.extras, method.next_extras)
        example = example_transition(policy.obs_dim, flat_dim, *extras)
        stored = log.read((capacity,), example)._asdict()
        for group in ("extras", "next_extras"):
            found |= {f"{group}/{k}": v for k, v in stored.pop(group).items()}
        del stored["followed_by"]  # is told when they are drawn
        found |= stored
    return found | {"replay/total": log.total}


def assert_equal_runs(found, expected):
    """Compares learner, environments, replay, counters, eval.csv and scalars."""
    last = read_config(expected).total_env_steps
    assert scalars(found) == scalars(expected)
    assert (found / "eval.csv").read_bytes() == (expected / "eval.csv").read_bytes()
    want, got = arrays(expected, last), arrays(found, last)
    assert want.keys() == got.keys() and any("env" in name for name in want)
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)
    notes, other = notes_of(found, last), notes_of(expected, last)
    for name in ("pending", "recent", "summaries", "to_evaluate"):
        assert notes[name] == other[name]
