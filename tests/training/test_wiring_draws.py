"""Which transitions each training call draws, read from its logged TD error.

Every transition is marked by its reward, a power of 4 in a fixed slot of the replay
buffer; critics do not learn and nothing is discounted to come, so that the mean |Q - y|
of a call is the sum of the marks that it drew, up to the small Q.
"""

import contextlib
import io
import json
import subprocess
import sys

import numpy as np
import pytest

from tests.support import wiring
from tests.support.command import ROOT, environment
from tests.support.same_run import scalars
from tests.support.scripted import ScriptedEnv
from tests.support.wiring import wired

MARK = 100.0
MARKS = 8  # different ones; a ring of as many slots holds each in its own
DRAWS = 3  # of a training call, fewer than 4
VECTOR_STEP = ScriptedEnv.sizes.chunk_len  # of one environment


class MarkedEnv(ScriptedEnv):
    """One environment, whose n-th chunk brings -MARK * 4^(n modulo MARKS)."""

    limit = 4
    sizes = ScriptedEnv.sizes._replace(max_episode_env_steps=16)
    reward_offset = 0.0  # of the configuration

    def step(self, indices, actions):
        result = super().step(indices, actions)
        number = len(self.played) - 1
        result.reward[:] = 0.0
        total_offset = self.sizes.chunk_len * self.reward_offset
        result.reward[:, 0] = total_offset - MARK * 4 ** (number % MARKS)
        return result


class MarkedBelowEnv(MarkedEnv):
    """Whose offset leaves room for an offline mark: 4 of it are the least reward."""

    reward_offset = MARK * 4.0**MARKS / 4


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return wiring.save_toy_policy(tmp_path_factory.mktemp("policy") / "policy")


def marked(policy, folder, first, calls, kind=MarkedEnv, **changes):
    """Sums of marks, in units of MARK, drawn by each of the training calls."""
    settings = {
        "ddim_steps": 1,
        "guidance.last_k": 0,
        "guidance.scale": 0.0,
        "num_envs": 1,
        "first_rollout_env_steps": first * VECTOR_STEP,
        "total_env_steps": (first + calls) * VECTOR_STEP,
        "batch_size": DRAWS,
        "overlap": False,
        "learning_rate": 0.0,
        "gamma": 0.0,
        "target_clip": 0.0,
        "reward_offset": kind.reward_offset,
        "replay.capacity": MARKS,
        "eval.episodes": 1,
    }
    config = wired(policy, **settings | changes)
    with contextlib.redirect_stdout(io.StringIO()):
        wiring.run(config, folder, kind)
    points = dict(scalars(folder)["train/td_error_mean"])
    steps = [(first + n) * VECTOR_STEP for n in range(1, calls + 1)]
    return np.array([points[n] for n in steps]) / MARK


def counts(total, places=MARKS):
    """How often each mark is in a sum of fewer than 4 of them."""
    rest, found = round(total), []
    for _ in range(places):
        found.append(rest % 4)
        rest //= 4
    assert rest == 0 and abs(total - round(total)) < 0.2
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"replay.memory": "host"},
        {"utd": DRAWS, "batch_size": 1, "replay.capacity": 4, "overlap": True},
    ],
    ids=["device", "host", "steps"],
)
def test_every_call_draws_anew_from_what_is_stored(policy, tmp_path, changes):
    totals = marked(policy, tmp_path / "run", 2, 24, **changes) * DRAWS
    draws = np.array([counts(total) for total in totals])
    np.testing.assert_array_equal(draws.sum(axis=1), DRAWS)
    newest = 0
    for number, drawn in enumerate(draws, 3):  # vector steps behind the call
        stored = number - bool(changes.get("overlap"))
        capacity = changes.get("replay.capacity", MARKS)
        held = np.arange(max(0, stored - capacity), stored) % MARKS
        assert set(np.flatnonzero(drawn)) <= set(held)
        newest += drawn[held[-1]] > 0
    assert newest > 3
    # When the buffer is full a repeated key would draw the same slots: their marks
    # would be equal in a ring of MARKS slots, and move by one in a smaller one.
    full = draws[8:]
    moved = np.array([np.roll(drawn, -n) for n, drawn in enumerate(full)])
    for drawn in (full, moved):
        assert len(np.unique(drawn, axis=0)) > len(full) / 2
    assert (draws.max(axis=1) == 1).any()  # steps of one call draw for themselves
    assert (draws.sum(axis=0) > 0).all()


def test_n_steps_are_discounted_and_end_with_their_episode(policy, tmp_path):
    """Episodes have 4 chunks; r + 0.5 r' is 4^n + 0.5 * 4^(n + 1) = 3 * 4^n."""
    options = {"target_n_step": 2, "gamma": 0.5, "batch_size": 1}
    totals = marked(policy, tmp_path / "run", 8, 24, **options)
    seen = set()
    for number, total in enumerate(totals, 8):  # the newest transition's
        found = counts(total)
        (slot,) = np.flatnonzero(found)
        alone = slot % 4 == 3 or slot == number % MARKS
        # behind slot 7 is slot 0 again, but another episode
        assert found[slot] == (1 if alone else 3)
        seen.add((bool(slot % 4 == 3), bool(slot == number % MARKS)))
    assert len(seen) >= 3


@pytest.mark.parametrize("memory", ["device", "host"])
def test_the_offline_share_of_every_batch_is_exact(policy, tmp_path, memory):
    np.savez(
        tmp_path / "offline.npz",
        states=np.zeros((1, 4)),
        states_next=np.zeros((1, 4)),
        actions=np.zeros((1, 4, 2)),
        rewards=np.full(1, -MARK * 4.0**MARKS),
        terminals=np.zeros(1, bool),
    )
    options = {
        "replay.offline_dataset": str(tmp_path / "offline.npz"),
        "replay.offline_share": 0.67,
        "replay.memory": memory,
    }
    found = marked(policy, tmp_path / "run", 2, 6, MarkedBelowEnv, **options)
    draws = np.array([counts(total, MARKS + 1) for total in found * DRAWS])
    np.testing.assert_array_equal(draws[:, MARKS], 2)
    np.testing.assert_array_equal(draws[:, :MARKS].sum(axis=1), 1)


@pytest.mark.slow
def test_two_devices_average_gradients_and_scalars(tmp_path):
    """Each device learns from one environment, of reward 3000 and of -1000.

    Observations and actions are constant, so that with Q near 0 the gradient of a
    critic's last bias is minus the mean reward, -1000, of which Adam's first moment
    keeps a tenth. The mean |Q - y| is 2000. One device alone would say -300 and 3000,
    or 100 and 1000.
    """
    flags = "--xla_force_host_platform_device_count=2"
    command = [sys.executable, "-m", "tests.support.wiring_child", str(tmp_path)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(XLA_FLAGS=flags),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["devices"] == 2
    np.testing.assert_allclose(found["first_moment_of_last_bias"], -100.0, atol=1.0)
    np.testing.assert_allclose(found["td_error"], 2000.0, atol=10.0)
    np.testing.assert_allclose(found["logged_td_error"], 2000.0, atol=10.0)
