"""A controller decides as evaluations do, in raw units, chunk after chunk."""

import itertools

import jax
import numpy as np
import pytest

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.normalize import (
    normalize_obs,
    unnormalize_action,
    unnormalize_obs,
)
from dynvgd_jax.core.observation import LAYOUTS, flatten_observation
from dynvgd_jax.envs.robosuite import build
from dynvgd_jax.envs.robosuite.tasks import TASKS
from dynvgd_jax.evaluate.play import steered_act
from tests.support.saved_run import DECISIONS

SEEDS, INDICES = np.array([7, 8, 2**32 - 1], np.uint32), np.array([0, 5, 2], np.int32)


def raw_obs(agent, rows, seed=0):
    scaled = np.random.default_rng(seed).uniform(-1, 1, (rows, agent.policy.obs_dim))
    return unnormalize_obs(agent.policy.normalization, scaled)


@pytest.fixture(scope="module")
def controller(agents):
    return agents["guided"].controller()


@pytest.mark.parametrize("name", DECISIONS)
def test_decides_as_evaluations_do(agents, name):
    agent = agents[name]
    raw, norm = raw_obs(agent, 3), agent.policy.normalization
    expected = steered_act(agent)(normalize_obs(norm, raw), SEEDS, INDICES)
    found = agent.controller(3).chunk(raw, SEEDS, INDICES)
    assert found.dtype == np.float64
    # without the scalars, XLA rounds in other places
    expected = unnormalize_action(norm, expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_rows_are_decided_by_themselves(agents, controller):
    raw = raw_obs(agents["guided"], 3)
    together = agents["guided"].controller(3).chunk(raw, SEEDS, INDICES)
    for i in range(3):
        alone = controller.chunk(raw[i], SEEDS[i], INDICES[i])
        np.testing.assert_allclose(alone, together[i], rtol=0, atol=2e-5)


def test_is_compiled_before_its_first_decision(controller):
    # of another shape or type it would raise instead of compiling anew
    assert isinstance(controller.program, jax.stages.Compiled)


def test_noise_depends_on_seed_and_chunk_alone(agents, controller):
    raw = raw_obs(agents["guided"], 1)[0]
    first = controller.chunk(raw, 3, 1)
    np.testing.assert_array_equal(first, controller.chunk(raw, 3, 1))
    other = agents["guided"].controller(noise_seed=controller.noise_seed + 1)
    for chunk in (
        controller.chunk(raw, 4, 1),
        controller.chunk(raw, 3, 2),
        other.chunk(raw, 3, 1),
    ):
        assert np.abs(chunk - first).max() > 1e-3


def test_receding_horizon_by_hand(agents, controller):
    seen = list(raw_obs(agents["guided"], 3))
    coming = iter(seen)
    actions = controller.actions(lambda: next(coming), seed=5, execute=3)
    found = list(itertools.islice(actions, 7))  # 3 of chunk 0, 3 of chunk 1, 1 of 2
    chunks = [controller.chunk(obs, 5, index) for index, obs in enumerate(seen)]
    expected = [*chunks[0][:3], *chunks[1][:3], chunks[2][0]]
    np.testing.assert_array_equal(found, expected)
    whole = controller.actions(lambda: seen[0], seed=5)
    np.testing.assert_array_equal(list(itertools.islice(whole, 4)), chunks[0])


def test_several_environments_get_an_action_each(agents):
    controller, raw = agents["guided"].controller(3), raw_obs(agents["guided"], 3)
    actions = controller.actions(lambda: raw, seed=SEEDS, execute=1)
    expected = [controller.chunk(raw, SEEDS, index)[:, 0] for index in range(2)]
    np.testing.assert_array_equal(list(itertools.islice(actions, 2)), expected)


def test_takes_robosuites_dictionary(agents, controller, simulators):
    task = TASKS["can"]
    seen = build.reset_env(build.build_env(task), 0)
    vector = build.observe(task, seen)
    by_dictionary = controller.chunk(seen, 1, 0)
    np.testing.assert_array_equal(by_dictionary, controller.chunk(vector, 1, 0))
    # another order inside of object-state, as robosuite 1.5 has it, decides nothing
    other = seen | {"object-state": seen["object-state"][::-1]}
    np.testing.assert_array_equal(by_dictionary, controller.chunk(other, 1, 0))
    with pytest.raises(UserError, match=r"lacks Can_pos, Can_quat.*use_object_obs"):
        controller.chunk({k: v for k, v in seen.items() if not k.startswith("Can_")})


def test_dictionaries_that_do_not_fit():
    obs = {name: np.zeros(size) for name, size in LAYOUTS["can"]}
    assert flatten_observation("can", obs).shape == (23,)
    with pytest.raises(ValueError, match="Can_pos: found 2 values, expected 3"):
        flatten_observation("can", obs | {"Can_pos": np.zeros(2)})
    with pytest.raises(UserError, match=r"'reach' are not known.* as one vector"):
        flatten_observation("reach", obs)


def test_mistakes_are_named(agents, controller):
    raw = raw_obs(agents["guided"], 2)
    with pytest.raises(ValueError, match=r"found obs \(2, 23\), expected \(1, 23\)"):
        controller.chunk(raw)
    broken = raw[0].copy()
    broken[11] = np.nan
    with pytest.raises(ValueError, match=r"entry 11 \(Can_pos z\): found nan"):
        controller.chunk(broken)
    for seed in (-1, 2**32, 2**70, 0.5, np.array([-1])):
        with pytest.raises(ValueError, match=r"found seed .* from 0 to 4294967295"):
            controller.chunk(raw[0], seed)
    for index in (-1, 2**31):
        with pytest.raises(ValueError, match=r"found index .* from 0 to 2147483647"):
            controller.chunk(raw[0], 0, index)
    for execute in (0, 5):
        with pytest.raises(ValueError, match=f"execute {execute}, expected 1 to 4"):
            controller.actions(lambda: raw[0], execute=execute)
    with pytest.raises(ValueError, match="found batch_size 0"):
        agents["guided"].controller(0)
    with pytest.raises(ValueError, match="noise_seed -1"):
        agents["guided"].controller(noise_seed=-1)
