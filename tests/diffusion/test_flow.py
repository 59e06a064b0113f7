"""Flows: Euler steps by hand and against float64, the loss, folders, two modes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.normalize import Normalization
from dynvgd_jax.diffusion import cloning
from dynvgd_jax.diffusion.base import Spec, decode, sample, step
from dynvgd_jax.diffusion.flow import flow_loss, make_euler
from dynvgd_jax.diffusion.kinds import KINDS
from dynvgd_jax.diffusion.network import DiffusionMLP, bind
from dynvgd_jax.diffusion.policy import Policy
from dynvgd_jax.diffusion.policy_files import load_policy, save_policy
from tests.diffusion.helpers import random_params
from tests.support import reference

SIZES = dict(time_dim=16, hidden_dims=(32, 32, 32), cond_dims=(8, 4))
NET = DiffusionMLP(5, 2, 4, **SIZES)


def euler(num_steps):
    """The denoiser whose parameters are the velocity itself."""
    return make_euler(lambda velocity_fn: velocity_fn, num_steps)


def inputs(seed=0, rows=6):
    rng = np.random.default_rng(seed)
    obs = rng.uniform(-1, 1, (rows, 5)).astype(np.float32)
    return obs, rng.normal(size=(rows, 4, 2)).astype(np.float32)


def make_policy(out_scale=1.0):
    ones = [np.ones(n, np.float32) for n in (5, 2)]
    norm = Normalization(-ones[0], ones[0], -ones[1], ones[1])
    params = random_params(NET, seed=3, out_scale=out_scale)
    return Policy(NET, params, 0, norm, "reach", {"note": 1}, kind="flow_mlp")


def velocity64(params):
    def velocity(x, t, obs):
        return reference.network(params, x, np.full(len(x), t), obs, **SIZES)

    return velocity


def test_two_steps_of_a_linear_velocity_by_hand():
    # v = 0.5 - x - t. From x = 1: v = -0.5, so x = 1 - 0.25 = 0.75 at t = 0.5, where
    # v = 0.5 - 0.75 - 0.5 = -0.75, so x = 0.75 - 0.375 = 0.375.
    # From x = 3: v = -2.5 leads to 0.5 within the limits: x = 1.75; v = -1.75, 0.875.
    # From x = -4: v = 4.5, x = -1.75; v = 1.75, and -1.75 + 0.875 = -0.875.
    # From x = -7: v = 7.5, x = -3.25; v = 3.25, and -3.25 + 1.625 is clipped to -1.
    denoiser, obs = euler(2), jnp.zeros((4, 1))
    velocity = lambda x, t, obs: 0.5 - x - t  # noqa: E731
    x = jnp.array([1.0, 3.0, -4.0, -7.0]).reshape(4, 1, 1)
    half = step(denoiser, velocity, x, 0, obs)
    np.testing.assert_allclose(half[:, 0, 0], [0.75, 1.75, -1.75, -3.25], rtol=1e-6)
    end = sample(denoiser, velocity, x, obs)
    np.testing.assert_allclose(end[:, 0, 0], [0.375, 0.875, -0.875, -1], rtol=1e-6)


def test_a_clean_chunk_beyond_the_limits_is_aimed_at_the_limit_by_hand():
    # v = 2: from 0.5 to 2.5, clipped to 1, so that half of the way is 0.75; then from
    # 0.75 to 1.75, clipped to 1.
    velocity = lambda x, t, obs: jnp.full_like(x, 2.0)  # noqa: E731
    x, obs = jnp.full((1, 1, 1), 0.5), jnp.zeros((1, 1))
    x0_hat, noise = euler(2).estimate(velocity, x, 0, obs)
    assert (x0_hat.item(), noise.item()) == (1.0, 0.5)
    assert step(euler(2), velocity, x, 0, obs).item() == 0.75
    assert sample(euler(2), velocity, x, obs).item() == 1.0


def test_noise_is_put_back_along_the_line_at_the_new_time_by_hand():
    # v = t at x_2 = 0.4 and its time 0.5 of K = 4: clean 0.4 + 0.25 = 0.65, noise
    # 0.4 - 0.25 = 0.15. Of the clean chunk -0.2 that is 0.5 (-0.2 + 0.15) = -0.025.
    velocity = lambda x, t, obs: jnp.full_like(x, t)  # noqa: E731
    x, obs = jnp.full((1, 1, 1), 0.4), jnp.zeros((1, 1))
    x1 = jnp.full((1, 1, 1), -0.2)
    found = euler(4).renoise(velocity, x, x1, 1, obs)
    np.testing.assert_allclose(found.item(), -0.025, atol=1e-7)
    assert euler(4).renoise(velocity, x, x1, 3, obs).item() == x1.item()


@pytest.mark.parametrize(("steps", "out_scale"), [(1, 1.0), (4, 8.0), (8, 1.0)])
def test_decode_is_an_euler_loop_in_float64(steps, out_scale):
    policy, (obs, noise) = make_policy(out_scale), inputs()
    velocity = velocity64(policy.params)
    found = policy.sample(obs, noise, steps)
    expected = reference.flow_decode(velocity, noise, obs, steps)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    x, small = np.float64(noise) / 4, np.float64(noise) / 4
    for k in range(steps):  # where nothing is clipped, it is the plainest loop
        x = x + 0.05 * velocity(x, k / steps, obs) / steps
    weak = jax.jit(lambda x, o: sample(euler(steps), weakened(policy), x, o))
    np.testing.assert_allclose(weak(jnp.float32(small), obs), x, atol=2e-6)
    assert np.abs(x).max() < 1 and (np.abs(expected) == 1).any()


def weakened(policy):
    velocity = bind(policy.network, policy.params)
    return lambda x, t, obs: 0.05 * velocity(x, t, obs)


def test_prefix_and_rest_are_the_whole():
    policy, (obs, noise) = make_policy(), inputs()
    prepared = bind(policy.network, policy.params)
    whole = decode(euler(5), prepared, noise, obs)
    x = decode(euler(5), prepared, noise, obs, end_k=2)
    assert np.array_equal(decode(euler(5), prepared, x, obs, first_k=2), whole)


def test_loss_agrees_with_float64():
    params, key, (obs, actions) = random_params(NET), jax.random.key(4), inputs()
    actions = np.clip(actions, -1, 1)
    seen = []

    def velocity_fn(x_t, t, obs):
        seen.extend([np.float64(x_t), np.float64(t)])
        return bind(NET, params)(x_t, t, obs)

    loss = flow_loss(velocity_fn, key, jnp.asarray(obs), jnp.asarray(actions))
    x_t, t = seen
    share = t[:, None, None]
    noise = (x_t - share * actions) / (1 - share)
    assert np.abs(noise.mean()) < 0.5 and 0.7 < noise.std() < 1.3
    assert len(set(t)) == len(t) and 0 <= t.min() and t.max() < 1
    velocity = reference.network(params, x_t, t, obs, **SIZES)
    expected = np.mean((velocity - (np.float64(actions) - noise)) ** 2)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_times_are_uniform():
    times = []

    def velocity_fn(x_t, t, obs):
        times.append(np.asarray(t))
        return x_t

    zeros = jnp.zeros((4000, 3)), jnp.zeros((4000, 4, 2))
    flow_loss(velocity_fn, jax.random.key(0), *zeros)
    # 400 expected in each tenth, standard deviation sqrt(4000 * 0.1 * 0.9) = 19.
    counts = np.histogram(times[0], 10, (0, 1))[0]
    assert counts.sum() == 4000 and np.abs(counts - 400).max() < 80


@pytest.mark.slow
@pytest.mark.usefixtures("polished_programs")
def test_a_learned_flow_has_both_modes_in_their_shares():
    """Actions are -0.6 in three of four chunks and 0.6 in the others."""
    net = DiffusionMLP(1, 1, 1, hidden_dims=(64, 64, 64))
    kind, spec = KINDS["flow_mlp"], Spec(net)
    actions = np.where(np.arange(400) % 4, -0.6, 0.6)[:, None]
    chunks = cloning.make_chunks(np.zeros((400, 1)), actions, np.array([400]), 1)
    recipe = cloning.Recipe(num_steps=800, learning_rate=1e-2, ema_decay=0.9)
    update = jax.jit(cloning.make_update(kind, spec, recipe))
    state = cloning.init_state(kind, spec, recipe, jax.random.key(0))
    state, _ = update(state, jax.random.key(1), chunks, 800)
    noise = jax.random.normal(jax.random.key(2), (4000, 1, 1))
    denoiser = kind.denoiser(spec, 20)
    run = jax.jit(lambda p, x: sample(denoiser, p, x, jnp.zeros((4000, 1))))
    x = np.asarray(run(state.ema_params, noise)).ravel()
    assert np.mean(np.abs(np.abs(x) - 0.6) < 0.2) > 0.9
    assert abs(np.mean(x > 0) - 0.25) < 0.04


def test_round_trip(tmp_path):
    policy, (obs, noise) = make_policy(), inputs()
    save_policy(tmp_path / "p", policy)
    description = json.loads((tmp_path / "p/policy.json").read_text())
    assert description["kind"] == "flow_mlp"
    assert "num_train_timesteps" not in description
    loaded = load_policy(tmp_path / "p")
    assert (loaded.kind, loaded.spec) == ("flow_mlp", policy.spec)
    assert (loaded.task, loaded.metadata) == ("reach", {"note": 1})
    np.testing.assert_array_equal(loaded.sample(obs, noise), policy.sample(obs, noise))


def test_a_folder_of_one_kind_is_not_read_as_another(tmp_path):
    save_policy(tmp_path / "p", make_policy())
    path = tmp_path / "p/policy.json"
    path.write_text(path.read_text().replace("flow_mlp", "diffusion_mlp"))
    with pytest.raises(UserError, match=r"policy.json does not .*num_train_timesteps"):
        load_policy(tmp_path / "p")


def test_what_a_flow_cannot_do_is_one_line():
    policy, (obs, noise) = make_policy(), inputs()
    with pytest.raises(UserError, match="kind 'flow_mlp', expected 'diffusion_mlp'"):
        policy.sample_ddpm(obs, noise, jax.random.key(0))
    with pytest.raises(UserError, match="found ddim_steps 0, expected at least 1"):
        policy.sample(obs, noise, 0)
