"""The table of methods: what each is, and what all have in common."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base as base_config
from dynvgd_jax.core.normalize import Normalization
from dynvgd_jax.diffusion.network import DiffusionMLP
from dynvgd_jax.diffusion.policy import Policy
from dynvgd_jax.steering.base import ActInputs
from dynvgd_jax.steering.methods import METHODS, build_method, state_shapes
from tests.diffusion.helpers import random_params

ENVS = 3


def make_policy():
    net = DiffusionMLP(5, 2, 4, hidden_dims=(16, 16, 16))
    ones = [np.ones(n, np.float32) for n in (5, 2)]
    norm = Normalization(-ones[0], ones[0], -ones[1], ones[1])
    return Policy(net, random_params(net, out_scale=8), 20, norm, "reach")


def build(name, **changes):
    config = base_config.get_config()
    config.method, config.ddim_steps, config.guidance.last_k = name, 2, 1
    config.critic.num, config.critic.width, config.critic.depth = 2, 16, 1
    config.first_rollout_env_steps, config.guidance.scale = 0, 0.05
    if name in ("best_of_n", "edit"):
        config.guidance.candidates, config.target_backup = 4, "max"
    config.dsrl.actor_width, config.dsrl.actor_depth = 16, 1
    config.update_from_flattened_dict(changes)
    return build_method(config, make_policy())


def act_inputs(**changes):
    rng = np.random.default_rng(0)
    inputs = ActInputs(
        obs=np.float32(rng.uniform(-1, 1, (ENVS, 5))),
        key=jax.random.key(1),
        seeds=np.uint32([5, 6, 7]),
        chunk_index=np.int32([0, 3, 3]),
        episode=np.int32([0, 1, 2]),
        env_steps=100,
    )
    return inputs._replace(**changes)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_to_the_seam(name):
    method, params = build(name), make_policy().params
    state = jax.jit(method.init)(jax.random.key(0))
    shapes = state_shapes(method)
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), state, shapes)
    assert state.num_updates.dtype == jnp.int32 and int(state.num_updates) == 0
    act, value_of = jax.jit(method.act), method.value and jax.jit(method.value)
    for evaluating in (False, True):
        inputs = act_inputs(evaluating=evaluating)
        decision = act(state, params, inputs)
        assert decision.chunk.shape == (ENVS, 4, 2)
        assert decision.chunk.dtype == jnp.float32
        assert decision.extras.keys() == method.extras.keys()
        for metric, value in decision.metrics.items():
            assert metric.startswith("guide/") and np.shape(value) == ()
            assert np.isfinite(value), metric
        if value_of is not None:
            value = value_of(state, inputs.obs, decision.chunk)
            assert value.members.shape[1:] == value.combined.shape == (ENVS,)
            assert value.weight.shape == (ENVS,) and state.td_error.shape == ()
    assert method.trains == (name != "base")


def test_the_base_policy_is_the_policy_alone_whatever_guides():
    base = build("base", **{"guidance.candidates": 4})
    state, params = base.init(jax.random.key(0)), make_policy().params
    noise = np.float32(np.random.default_rng(1).normal(size=(ENVS, 4, 2)))
    inputs = act_inputs(noise=noise)
    decision = jax.jit(base.act)(state, params, inputs)
    plain = make_policy().sample(inputs.obs, noise, 2)
    np.testing.assert_allclose(decision.chunk, plain, atol=2e-6)
    assert base.update is None and base.candidates == 1 and decision.metrics == {}


def test_vgd_neither_weighs_nor_clips_and_dynvgd_does_both():
    changes = {"guidance.scale": 100.0}
    decisions, noise = {}, np.float32(np.ones((ENVS, 4, 2)))
    for name in ("vgd", "dynvgd"):
        method = build(name, **changes)
        state = method.init(jax.random.key(0))._replace(td_error=jnp.float32(50.0))
        inputs = act_inputs(noise=noise)
        decisions[name] = jax.jit(method.act)(state, make_policy().params, inputs)
    assert decisions["vgd"].metrics["guide/weight_mean"] == 1
    assert decisions["dynvgd"].metrics["guide/weight_mean"] < 0.61  # exp(-50 / 100)
    assert np.abs(decisions["vgd"].chunk).max() > 1
    assert np.abs(decisions["dynvgd"].chunk).max() <= 1


def test_the_choice_alone_is_vgd_without_guidance_whatever_the_scale():
    """Of its stored proposals the very same chunk, and no guided step's scalars."""
    params, inputs = make_policy().params, act_inputs()
    kept = {"guidance.candidates": 4, "target_backup": "mean"}
    chosen = build("best_of_n", **{"guidance.scale": 9.0})
    unguided = build("vgd", **kept | {"guidance.scale": 0.0})
    state = chosen.init(jax.random.key(0))
    decisions = [jax.jit(m.act)(state, params, inputs) for m in (chosen, unguided)]
    np.testing.assert_array_equal(decisions[0].chunk, decisions[1].chunk)
    assert decisions[0].metrics.keys() == {"guide/candidate_gain"}
    assert chosen.candidates == 4 and not chosen.follows


def test_the_state_of_the_base_policy_is_vgds():
    """So that a run's critics can be looked at without them."""
    shapes = [
        jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state_shapes(build(name)))
        for name in ("base", "vgd", "dynvgd", "best_of_n")
    ]
    assert shapes[0] == shapes[1] == shapes[2] == shapes[3]


def test_without_noise_and_key_there_is_nothing_to_act_from():
    method = build("dynvgd")
    state = state_shapes(method)
    with pytest.raises(ValueError, match="neither start noise nor key"):
        method.act(state, make_policy().params, act_inputs(key=None))
