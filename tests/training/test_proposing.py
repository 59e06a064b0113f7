"""Proposals over a whole run: each belongs to its observation, also across a resume."""

import jax
import numpy as np
import pytest

from dynvgd_jax.diffusion.policy_files import load_policy
from dynvgd_jax.steering.base import ActInputs
from dynvgd_jax.steering.methods import build_method
from dynvgd_jax.steering.proposals import PROPOSALS as NAME
from dynvgd_jax.training import proposing
from dynvgd_jax.training.loop import train
from dynvgd_jax.training.state import ACT_KEY
from tests.support import wiring
from tests.support.reach import PowerCutError, ReachEnv, breaking
from tests.support.same_run import arrays, assert_equal_runs
from tests.support.tiny_run import PROPOSALS, tiny

COUNT = 4
KEPT = {
    "guidance.candidates": COUNT,
    "guidance.scale": 0.0,
    "proposals.noises": ("tanh_randn", "randn"),
    "target_backup": "max",
    "bootstrap_at_time_limit": True,
    "end_at_success": True,
    "overlap": False,
}


@pytest.mark.parametrize(
    "dtype", ["float32", pytest.param("float16", marks=pytest.mark.slow)]
)
def test_every_transition_has_the_proposals_of_its_next_observation(
    tmp_path, monkeypatch, dtype
):
    """Also at a time limit; and acting takes one of its observation's own.

    After a done, where no target looks, it has those of the next episode's first: so
    that a vector step draws twice only where a time limit has ended an episode.
    """
    drawn, propose = [], proposing._propose
    monkeypatch.setattr(
        proposing, "_propose", lambda *args: drawn.append(args) or propose(*args)
    )
    policy = wiring.save_toy_policy(tmp_path / "policy")
    config = wiring.wired(policy, **KEPT | {"proposals.dtype": dtype})
    (env,), _ = wiring.run(config, tmp_path / "run")
    stored = arrays(tmp_path / "run", config.total_env_steps)
    method, loaded = build_method(config, load_policy(policy)), load_policy(policy)
    key = jax.random.fold_in(jax.random.key(config.seed), ACT_KEY)

    def proposed(places):
        """Of (episode seed, chunk), by the scripted observations."""
        seeds, chunks = zip(*places, strict=True)
        obs = np.stack([env.obs_of(*place) for place in places])
        inputs = ActInputs(obs, key, np.uint32(seeds), np.int32(chunks))
        return obs, method.propose(loaded.params, inputs)[NAME]

    explored = config.first_rollout_env_steps // wiring.VECTOR_STEP
    done = stored["discount"] == 0
    places = [list(zip(s.seeds.tolist(), s.chunks.tolist())) for s in env.played]
    for number, step in enumerate(env.played):
        rows = slice(wiring.NUM_ENVS * number, wiring.NUM_ENVS * (number + 1))
        obs, candidates = proposed(places[number])
        np.testing.assert_array_equal(stored["obs"][rows], obs)
        if number >= explored:
            found = np.abs(candidates - step.actions[:, None]).max(axis=(2, 3))
            assert (found.min(axis=1) < 1e-6).all()
        after = [(seed, chunk + 1) for seed, chunk in places[number]]
        next_obs, candidates = proposed(after)
        np.testing.assert_array_equal(stored["next_obs"][rows], next_obs)
        checked = np.ones(wiring.NUM_ENVS, bool)
        if number + 1 < len(places):
            acted = zip(done[rows], places[number + 1], after, strict=True)
            _, candidates = proposed([new if over else old for over, new, old in acted])
        else:  # where a done led to is not in the diary
            checked = ~done[rows]
        kept = stored[f"next_extras/{NAME}"][rows][checked]
        assert kept.dtype == dtype
        np.testing.assert_allclose(
            kept,
            candidates[checked].astype(dtype),
            atol=1e-6 if dtype == "float32" else 5e-4,
        )
    assert number + 1 == config.total_env_steps // wiring.VECTOR_STEP
    limits = (stored["ended"] & ~done)[: rows.stop].reshape(-1, wiring.NUM_ENVS)
    assert done[: rows.stop].any() and 0 < limits.any(axis=1).sum() < len(limits)
    assert len(drawn) == len(limits) + limits.any(axis=1).sum()


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["device", "host"])
def test_a_run_broken_in_training_goes_on_bit_for_bit(toy_policy, tmp_path, memory):
    changes = PROPOSALS | {"replay.memory": memory, "replay.capacity": 30}
    config = tiny(toy_policy, **changes)
    train(config, tmp_path / "whole", make_env=ReachEnv)
    with pytest.raises(PowerCutError):
        train(config, tmp_path / "run", make_env=breaking(16 + 8 + 17))
    train(config, tmp_path / "run", make_env=ReachEnv, resume=True)
    assert_equal_runs(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_offline_transitions_get_their_own(toy_policy, tmp_path, capsys):
    """Proposals at their next observations, of each by its number."""
    rng = np.random.default_rng(0)
    count = 700  # more than are decoded at once
    np.savez(
        tmp_path / "offline.npz",
        states=rng.uniform(-1, 1, (count, 4)),
        states_next=rng.uniform(-1, 1, (count, 4)),
        actions=rng.uniform(-1, 1, (count, 4, 2)),
        rewards=rng.uniform(-4, -3.5, count),
        terminals=np.zeros(count, bool),
    )
    from dynvgd_jax.training import setup

    seen = []

    class Watched(setup.DeviceReplay):
        def __init__(self, placement, capacity, example, offline):
            seen.append(offline)
            super().__init__(placement, capacity, example, offline)

    config = tiny(
        toy_policy,
        **PROPOSALS | {"replay.offline_dataset": str(tmp_path / "offline.npz")},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(setup.MEMORIES, "device", Watched)
        train(config, tmp_path / "run", make_env=ReachEnv)
    assert "| decoding proposals of offline data 0/700, ? left" in (
        capsys.readouterr().err
    )
    (offline,) = seen
    policy = load_policy(toy_policy)
    method = build_method(config, policy)
    for rows in (slice(0, 5), slice(510, 514), slice(count - 3, count)):
        numbers = np.arange(count, dtype=np.uint32)[rows]
        inputs = ActInputs(
            offline.next_obs[rows],
            jax.random.key(0),
            numbers,
            np.zeros(len(numbers), np.int32),
        )
        expected = method.propose(policy.params, inputs)[NAME]
        np.testing.assert_allclose(offline.next_extras[NAME][rows], expected, atol=1e-6)
    assert len(offline.next_extras[NAME]) == count
