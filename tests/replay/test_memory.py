"""Replay buffers in host memory: the same ring, other draws, the same resumed run."""

import jax
import numpy as np
import pytest

from dynvgd_jax.core.types import Transition
from dynvgd_jax.replay.memory import DeviceReplay, HostReplay
from dynvgd_jax.training.loop import train
from dynvgd_jax.training.placement import Placement
from tests.support.reach import PowerCutError, ReachEnv, breaking
from tests.support.same_run import assert_equal_runs
from tests.support.tiny_run import MANY_CHECKPOINTS, tiny

ONE, TWO_SEEDS = Placement(), Placement(num_seeds=2)
FOUR_DEVICES = Placement(num_devices=4, num_local=4)


def numbered(first, count, offset=0.0):
    reward = np.arange(first, first + count, dtype=np.float32) + np.float32(offset)
    wide = np.repeat(reward[:, None], 3, axis=1)
    return Transition(wide, wide[:, :2], reward, wide + 1, 0 * reward)


def host(placement=ONE, capacity=10, batch=400, num_offline=0, offline=None):
    sizes = (placement, capacity, 3, 2, offline)
    return HostReplay(*sizes, batch_shape=(5, batch), num_offline=num_offline)


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_draws_what_the_device_ring_holds(steps):
    ours, device = host(), DeviceReplay(ONE, 10, 3, 2, None)
    for number in range(steps):
        for replay in (ours, device):
            replay.store([numbered(4 * number, 4)])
    state, batches = device.state, ours.training_input([jax.random.key(0)])
    assert batches.obs.shape == (400, 5, 3) and batches.action.shape == (400, 5, 2)
    held = np.asarray(state.data.reward)[: int(state.size)]
    assert set(batches.reward.ravel()) == set(held)  # 2,000 draws of at most 10
    np.testing.assert_array_equal(batches.next_obs[..., 0], batches.reward + 1)
    np.testing.assert_array_equal(batches.action[..., 1], batches.reward)
    # all equally often: 2,000 / n each, standard deviation at most 22
    _, counts = np.unique(batches.reward, return_counts=True)
    assert np.abs(counts - 2000 / len(held)).max() < 100


def test_draws_belong_to_the_key_and_the_seed():
    replay = host(TWO_SEEDS)
    replay.store([numbered(0, 8), numbered(0, 8, offset=100)])
    keys = [jax.random.key(1), jax.random.key(1)]
    first, again = (replay.training_input(keys).reward for _ in range(2))
    assert first.shape == (2, 400, 5)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first[0] + 100, first[1])
    other = replay.training_input([jax.random.key(2), jax.random.key(1)]).reward
    assert not np.array_equal(first[0], other[0])


def test_every_device_gets_its_share_of_offline_transitions():
    offline = numbered(1000, 50)
    replay = host(FOUR_DEVICES, batch=16, num_offline=4, offline=offline)
    replay.store([numbered(0, 8)])
    batches = replay.training_input([jax.random.key(0)])
    assert batches.reward.shape == (4, 4, 5)  # devices, their transitions, steps
    np.testing.assert_array_equal((batches.reward >= 1000).sum(axis=1), 1)


@pytest.mark.usefixtures("compilation_cache")
@pytest.mark.parametrize(("overlap", "newest"), [(False, 2), (True, 0)])
def test_an_overlapping_call_cannot_draw_its_own_step(
    toy_policy, tmp_path, monkeypatch, overlap, newest
):
    """Ten vector steps of two environments come before the first training call."""
    stored, draw = [], HostReplay.training_input

    def training_input(self, keys):
        stored.append(self._total)
        return draw(self, keys)

    monkeypatch.setattr(HostReplay, "training_input", training_input)
    config = tiny(toy_policy, **{"replay.memory": "host", "overlap": overlap})
    train(config, tmp_path / "run", make_env=ReachEnv)
    assert stored == [20 + 2 * call + newest for call in range(14)]


@pytest.mark.usefixtures("compilation_cache")
def test_a_broken_run_goes_on_bit_for_bit(toy_policy, tmp_path):
    changes = {"replay.memory": "host", "overlap": True}
    config = tiny(toy_policy, **MANY_CHECKPOINTS, **changes)
    train(config, tmp_path / "whole", make_env=ReachEnv)
    with pytest.raises(PowerCutError):
        train(config, tmp_path / "run", make_env=breaking(16 + 8 + 18))
    train(config, tmp_path / "run", make_env=ReachEnv, resume=True)
    assert_equal_runs(tmp_path / "run", tmp_path / "whole")
