"""Replay buffers in host memory: the same ring, other draws, the same resumed run."""

import jax
import numpy as np
import pytest

from configs import base
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.types import Transition
from dynvgd_jax.replay import ring
from dynvgd_jax.replay.ring import Window
from dynvgd_jax.training.loop import train
from dynvgd_jax.training.placement import Placement
from dynvgd_jax.training.replay_memory import (
    DeviceReplay,
    Draw,
    HostReplay,
    make_draw,
)
from tests.support.reach import PowerCutError, ReachEnv, breaking
from tests.support.same_run import assert_equal_runs
from tests.support.stored import (
    EXAMPLE,
    EXAMPLE_WITH_EXTRAS,
    assert_same_bits,
    random_extras,
    random_history,
)
from tests.support.tiny_run import MANY_CHECKPOINTS, tiny

pytestmark = pytest.mark.usefixtures("shared_programs")

ONE, TWO_SEEDS = Placement(), Placement(num_seeds=2)
FOUR_DEVICES = Placement(num_devices=4, num_local=4)


def numbered(first, count, offset=0.0):
    reward = np.arange(first, first + count, dtype=np.float32) + np.float32(offset)
    wide = np.repeat(reward[:, None], 3, axis=1)
    ended = np.zeros(count, bool)
    return Transition(wide, wide[:, :2], reward, wide + 1, 0 * reward + 1, ended)


def draw(batch=400, num_offline=0, window=Window(gamma=1.0)):
    return Draw(5, batch, num_offline, window)


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_draws_what_the_device_ring_holds(steps):
    ours, device = (kind(ONE, 10, EXAMPLE) for kind in (HostReplay, DeviceReplay))
    for number in range(steps):
        for replay in (ours, device):
            replay.store([numbered(4 * number, 4)])
    state, batches = device.state, ours.draw([jax.random.key(0)], draw())
    assert batches.obs.shape == (400, 5, 3) and batches.action.shape == (400, 5, 2)
    held = np.asarray(state.data.reward)[: int(state.size)]
    assert set(batches.reward.ravel()) == set(held)  # 2,000 draws of at most 10
    np.testing.assert_array_equal(batches.next_obs[..., 0], batches.reward + 1)
    np.testing.assert_array_equal(batches.action[..., 1], batches.reward)
    # all equally often: 2,000 / n each, standard deviation at most 22
    _, counts = np.unique(batches.reward, return_counts=True)
    assert np.abs(counts - 2000 / len(held)).max() < 100


def test_draws_belong_to_the_key_and_the_seed():
    replay = HostReplay(TWO_SEEDS, 10, EXAMPLE)
    replay.store([numbered(0, 8), numbered(0, 8, offset=100)])
    keys = [jax.random.key(1), jax.random.key(1)]
    first, again = (replay.draw(keys, draw()).reward for _ in range(2))
    assert first.shape == (2, 400, 5)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first[0] + 100, first[1])
    other = replay.draw([jax.random.key(2), jax.random.key(1)], draw()).reward
    assert not np.array_equal(first[0], other[0])


def test_every_device_gets_its_share_of_offline_transitions():
    offline = numbered(1000, 50)
    replay = HostReplay(FOUR_DEVICES, 10, EXAMPLE, offline)
    replay.store([numbered(0, 8)])
    batches = replay.draw([jax.random.key(0)], draw(16, num_offline=4))
    assert batches.reward.shape == (4, 4, 5)  # devices, their transitions, steps
    np.testing.assert_array_equal((batches.reward >= 1000).sum(axis=1), 1)


@pytest.mark.parametrize(("overlap", "newest"), [(False, 2), (True, 0)])
def test_an_overlapping_call_cannot_draw_its_own_step(
    toy_policy, tmp_path, monkeypatch, overlap, newest
):
    """Ten vector steps of two environments come before the first training call."""
    stored, original = [], HostReplay.draw

    def counted(self, keys, what):
        stored.append(self.total)
        return original(self, keys, what)

    monkeypatch.setattr(HostReplay, "draw", counted)
    config = tiny(toy_policy, **{"replay.memory": "host", "overlap": overlap})
    train(config, tmp_path / "run", make_env=ReachEnv)
    assert stored == [20 + 2 * call + newest for call in range(14)]


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_windows_are_those_of_one_buffer_of_the_whole(devices):
    """Of several devices each has a part of every vector step, and its own stride.

    Host memory keeps them together: the same transitions reach as far.
    """
    history, envs, window = random_history(0, 12, 3), 3, Window(0.9, 4, 3)
    host = HostReplay(ONE, 24, EXAMPLE)
    whole = ring.init_replay(24, EXAMPLE)
    parts = [ring.init_replay(24 // devices, EXAMPLE) for _ in range(devices)]
    what = draw(300, window=window)
    own = what.share(devices)
    assert own.window == Window(0.9, 4, 3 // devices)
    for fresh in history:
        host.store([fresh])
        whole = ring.add(whole, fresh)
        for i in range(devices):
            rows = slice(i * envs // devices, (i + 1) * envs // devices)
            share = jax.tree.map(lambda leaf, r=rows: leaf[r], fresh)
            parts[i] = ring.add(parts[i], share)

    def everything(state, window):
        slots = np.arange(len(state.data.reward))
        found = ring.look_ahead(state.data, state.cursor, slots, window)
        return dict(
            zip(np.asarray(found.obs[:, 0], int), zip(*found[2:5]), strict=True)
        )

    expected = everything(whole, window)
    found = {}
    for part in parts:
        found |= everything(part, own.window)
    assert found.keys() == expected.keys() and len(expected) == 24
    batches = host.draw([jax.random.key(0)], what)
    drawn = dict(
        zip(
            batches.obs[..., 0].astype(int).ravel(),
            zip(
                batches.reward.ravel(),
                batches.next_obs.reshape(-1, 3),
                batches.discount.ravel(),
                strict=True,
            ),
            strict=True,
        )
    )
    assert drawn.keys() == expected.keys()
    for number, values in expected.items():
        for other in (found[number], drawn[number]):
            for a, b in zip(values, other, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("kind", [HostReplay, DeviceReplay])
def test_extras_are_stored_and_refilled_bit_for_bit(kind):
    fresh = numbered(0, 6)._replace(extras=random_extras(0, 6))
    replay = kind(TWO_SEEDS, 10, EXAMPLE_WITH_EXTRAS)
    other = fresh._replace(extras=random_extras(1, 6))
    replay.store([fresh, other])

    def content(replay):
        if kind is DeviceReplay:
            return [
                jax.tree.map(
                    lambda leaf, i=i: np.asarray(leaf)[i, :6], replay.state.data
                )
                for i in range(2)
            ]
        return [jax.tree.map(lambda leaf: leaf[:6], own.data) for own in replay._rings]

    for found, expected in zip(content(replay), (fresh, other), strict=True):
        jax.tree.map(assert_same_bits, found, expected)
    again = kind(TWO_SEEDS, 10, EXAMPLE_WITH_EXTRAS)
    pad = lambda leaf: np.concatenate([leaf, np.zeros_like(leaf[:4])])[None]  # noqa: E731
    again.refill([jax.tree.map(pad, each) for each in (fresh, other)], 6)
    for found, expected in zip(content(again), content(replay), strict=True):
        jax.tree.map(assert_same_bits, found, expected)


def test_what_is_drawn_comes_from_the_configuration():
    config = base.get_config()
    assert make_draw(config) == Draw(20, 512, 0, Window(0.999, 1, 8))
    config.target_n_step, config.gamma, config.num_envs = 30, 0.9, 6
    config.replay.offline_dataset, config.replay.offline_share = "x.npz", 0.25
    found = make_draw(config)
    assert found == Draw(20, 512, 128, Window(0.9, 30, 6))
    assert found.share(2) == Draw(20, 256, 64, Window(0.9, 30, 3))
    config.replay.offline_share = 0.0009
    with pytest.raises(UserError, match=r"offline_share: found 0\.0009, expected at"):
        make_draw(config)


@pytest.mark.slow
def test_a_broken_run_goes_on_bit_for_bit(toy_policy, tmp_path):
    changes = {"replay.memory": "host", "overlap": True, "target_n_step": 3}
    config = tiny(toy_policy, **MANY_CHECKPOINTS, **changes)
    train(config, tmp_path / "whole", make_env=ReachEnv)
    with pytest.raises(PowerCutError):
        train(config, tmp_path / "run", make_env=breaking(16 + 8 + 18))
    train(config, tmp_path / "run", make_env=ReachEnv, resume=True)
    assert_equal_runs(tmp_path / "run", tmp_path / "whole")
