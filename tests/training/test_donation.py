"""What a compiled call replaces gives its memory to what replaces it."""

import jax
import numpy as np
import pytest

from dynvgd_jax.core.types import EpisodeEnds
from dynvgd_jax.diffusion.policy_files import load_policy
from dynvgd_jax.replay.ring import example_transition
from dynvgd_jax.steering.base import ActInputs
from dynvgd_jax.steering.methods import build_method
from dynvgd_jax.training.placement import place
from dynvgd_jax.training.programs import compile_programs
from dynvgd_jax.training.replay_memory import DeviceReplay
from tests.support.tiny_run import PROPOSALS, tiny

LARGE = 1_000  # bytes


def states(tree):
    """Which of a tree's large arrays gave their memory away."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.nbytes > LARGE]
    assert leaves
    return {leaf.is_deleted() for leaf in leaves}


GIVEN, KEPT = {True}, {False}


@pytest.mark.parametrize("num_seeds", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_every_large_argument_is_donated_or_needed_again(toy_policy, num_seeds):
    config = tiny(toy_policy, num_seeds=num_seeds, **PROPOSALS)
    policy, placement = load_policy(toy_policy), place(num_seeds)
    method = build_method(config, policy, placement.average)
    programs = compile_programs(config, policy, method, placement)
    learner = programs.put([method.init(jax.random.key(0)) for _ in range(num_seeds)])
    flat_dim = policy.chunk_len * policy.action_dim
    extras = (method.extras, method.next_extras)
    example = example_transition(policy.obs_dim, flat_dim, *extras)
    replay = DeviceReplay(placement, 40, example)
    keys = [jax.random.key(1)] * num_seeds

    before = replay.state.data
    rows = jax.tree.map(lambda leaf: np.stack([leaf] * config.num_envs), example)
    replay.store([rows] * num_seeds)
    assert states(before) == GIVEN

    seeds = np.zeros(config.num_envs, np.uint32)
    inputs = ActInputs(rows.obs, keys[0], seeds, seeds.astype(np.int32), seeds * 0, 0)
    proposed = jax.device_get(programs.propose([inputs] * num_seeds))
    proposed = {name: placement.collect(leaf)[0] for name, leaf in proposed.items()}
    programs.act(learner, [inputs._replace(proposed=proposed)] * num_seeds)
    assert states(learner) == KEPT  # it learns on

    before, learner = learner, programs.update(learner, replay, keys, 0)[0]
    assert states(before) == GIVEN and states(learner) == KEPT
    assert states(replay.state.data) == KEPT  # the next call draws from it
    programs.update(learner, replay, keys, 0)  # and the policy's weights are there


def test_a_search_gives_its_state_away(toy_policy):
    config = tiny(toy_policy, method="golden_ticket", first_rollout_env_steps=0)
    policy, placement = load_policy(toy_policy), place(1)
    method = build_method(config, policy, placement.average)
    programs = compile_programs(config, policy, method, placement)
    learner = programs.put([method.init(jax.random.key(0))])
    zeros = np.zeros(config.num_envs)
    ends = EpisodeEnds(
        ended=zeros > 0,
        episode=zeros.astype(np.int32),
        success_chunk=zeros > 0,
        episode_return=zeros.astype(np.float32),
        seed=zeros.astype(np.uint32),
        chunks=zeros.astype(np.int32),
    )
    after = programs.observe(learner, [ends])
    assert states(learner) == GIVEN and states(after) == KEPT
