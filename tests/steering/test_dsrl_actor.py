"""The noise actor: its distribution by hand, its entropy, what it acts from."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.diffusion.base import sample
from dynvgd_jax.steering.critics.mlp import CriticEnsemble, mean_critic
from dynvgd_jax.steering.dsrl_na import dsrl_na
from dynvgd_jax.steering.dsrl_sac import dsrl_sac
from dynvgd_jax.steering.noise import held_noise
from dynvgd_jax.steering.noise_acting import NOISE
from dynvgd_jax.steering.noise_actor import LOG_STD_RANGE, make_noise_actor, squashed
from dynvgd_jax.steering.sac import make_sac
from tests.steering import toy

ENVS = 4
METHODS = {"dsrl_na": dsrl_na, "dsrl_sac": dsrl_sac}


def small(name="dsrl_na", **changes):
    setting = toy.setting()
    config = setting.config
    settings = {"critic.num": 2, "critic.width": 8, "critic.depth": 1}
    settings |= {"dsrl.actor_width": 16, "dsrl.actor_depth": 1, "method": name}
    config.update_from_flattened_dict(settings | changes)
    return setting


def test_log_probability_by_hand():
    """mean 0, std 1: at the draw 0 the density of u is 1 / sqrt(2 pi), the slope 1."""
    draw = jnp.float32([[0.0, 0.0], [1.0, -2.0]])
    unit, log_prob = squashed(jnp.zeros((2, 2)), jnp.zeros((2, 2)), draw)
    np.testing.assert_allclose(unit[1], np.tanh([1.0, -2.0]), rtol=1e-6)
    np.testing.assert_allclose(log_prob[0], -math.log(2 * math.pi), rtol=1e-5)
    slopes = [1 - math.tanh(1) ** 2, 1 - math.tanh(2) ** 2]  # 0.41997, 0.07065
    by_hand = -0.5 * (1 + 4) - math.log(2 * math.pi) - sum(map(math.log, slopes))
    np.testing.assert_allclose(log_prob[1], by_hand, rtol=1e-4)


def test_log_probability_keeps_its_digits_at_the_bounds():
    u = np.float64([3.0, 6.0, -9.0, 30.0])
    _, found = squashed(
        jnp.float32(u)[:, None], jnp.full((4, 1), -20.0), jnp.zeros((4, 1))
    )
    slope = 1 / np.cosh(u) ** 2
    expected = 20 - 0.5 * math.log(2 * math.pi) - np.log(slope + 1e-6)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.isfinite(found).all()


def test_the_density_integrates_to_one():
    """Over [-1, 1], from a grid of draws: sum of p(unit) d(unit)."""
    draw = jnp.linspace(-9.0, 9.0, 20_001)[:, None]
    shape = draw.shape
    unit, log_prob = squashed(jnp.full(shape, 0.4), jnp.full(shape, -0.3), draw)
    density, place = np.exp(np.float64(log_prob)), np.float64(unit[:, 0])
    np.testing.assert_allclose(np.trapezoid(density, place), 1.0, atol=1e-3)


def test_the_deviation_is_clipped_to_its_published_range():
    setting = small()
    actor = make_noise_actor(setting.config, toy.OBS_DIM, toy.FLAT)
    params = actor.init(jax.random.key(0))
    obs, draw = jnp.ones((1, toy.OBS_DIM)), jnp.full((1, toy.FLAT), 0.01)
    for bias, (least, greatest) in ((100.0, LOG_STD_RANGE), (-100.0, LOG_STD_RANGE)):
        head = params["params"]["log_std"] | {"bias": jnp.full((toy.FLAT,), bias)}
        moved = {"params": params["params"] | {"log_std": head}}
        mode, _ = actor.sample(moved, obs, jnp.zeros_like(draw))
        unit, _ = actor.sample(moved, obs, draw)
        spread = np.arctanh(np.float64(unit)) - np.arctanh(np.float64(mode))
        wanted = 0.01 * math.exp(greatest if bias > 0 else least)
        np.testing.assert_allclose(spread, wanted, atol=1e-5)
        # at the mode the squashing of what is not saturated costs the same
        _, log_prob = actor.sample(moved, obs, jnp.zeros_like(draw))
        slope = 1.0 - np.square(np.tanh(np.arctanh(np.float64(mode))))
        log_std = greatest if bias > 0 else least
        expected = -0.5 * math.log(2 * math.pi) - log_std - np.log(slope + 1e-6)
        np.testing.assert_allclose(log_prob, expected.sum(-1), rtol=1e-4)


class Entropy:
    """An actor at one observation, whose critics say what a test wants.

    Target entropy -3 nats in 8 dimensions, of at most 8 log(2) = 5.5.
    """

    target = -3.0

    def __init__(self, value, log_std, coef=1.0, steps=1500):
        setting = small(
            **{
                "learning_rate": 5e-3,
                "dsrl.target_entropy": self.target,
                "dsrl.initial_entropy_coef": coef,
            }
        )
        critic = mean_critic(CriticEnsemble(2, 4, 1), toy.OBS_DIM, toy.FLAT)
        sac = make_sac(setting, critic)
        # what the critics of the targets learn does not reach the actor here
        state = sac.init(jax.random.key(1))
        network = state.actor.params["params"]
        head = network["log_std"] | {"bias": jnp.full((toy.FLAT,), log_std)}
        actor = sac.begin({"params": network | {"log_std": head}})
        state = state._replace(actor=actor)
        batch = toy.transitions(0, 64)
        batch = batch._replace(obs=jnp.ones_like(batch.obs), discount=batch.reward * 0)

        def one_step(state, drawn):
            state, metrics = sac.step(
                state,
                critic,
                batch,
                drawn,
                lambda obs, unit: unit,
                lambda params, obs, unit: jnp.stack([value(unit)] * 2),
            )
            kept = -metrics["train/log_prob"], metrics["train/entropy_coef"]
            return state, kept

        def run(state, key):
            return jax.lax.scan(one_step, state, sac.draw_steps(key, steps, (64, 8)))

        _, (self.entropy, self.coef) = jax.jit(run)(state, jax.random.key(2))


def test_constant_critics_keep_the_entropy_at_its_target_or_above():
    """A narrow actor widens while the coefficient rises, which then falls for good."""
    found = Entropy(lambda unit: jnp.zeros(len(unit)), log_std=-3.0)
    assert found.entropy[:20].mean() < Entropy.target - 5
    assert np.all(found.entropy[-500:] > Entropy.target)
    assert found.coef.max() > 1.1 and found.coef[-1] < 0.1


@pytest.mark.parametrize("pull", [1.0, 10.0])
def test_critics_that_pull_to_a_corner_meet_the_entropy_target(pull):
    """Without a coefficient the actor would go there for good."""
    found = Entropy(lambda unit: pull * jnp.sum(unit, axis=1), log_std=0.0)
    assert found.entropy[:5].mean() > 2
    last = found.entropy[-500:]
    np.testing.assert_allclose(last.mean(), Entropy.target, atol=0.4)
    # where the entropy's price is in units of Q
    assert 0.05 * pull < found.coef[-500:].mean() < 5 * pull


def inputs(**changes):
    rng = np.random.default_rng(0)
    obs = np.float32(rng.normal(size=(ENVS, toy.OBS_DIM)))
    acting = toy.inputs(obs, None)._replace(
        key=jax.random.key(4),
        seeds=np.uint32([3, 8, 8, 9]),
        chunk_index=np.int32([0, 1, 2, 0]),
        evaluating=False,
    )
    return acting._replace(**changes)


def decode(setting, noise, obs):
    plain = jax.jit(lambda *arguments: sample(setting.denoiser, *arguments))
    return plain(toy.to_jax(toy.weights()), noise, obs)


@pytest.mark.parametrize("name", METHODS)
def test_first_rollouts_fill_the_bounds(name):
    setting = small(name, **{"dsrl.noise_magnitude": 1.5})
    explore = jax.jit(METHODS[name](setting).explore)
    count = 500
    many = inputs(
        obs=np.zeros((count, toy.OBS_DIM), np.float32),
        seeds=np.arange(count, dtype=np.uint32),
        chunk_index=np.zeros(count, np.int32),
    )
    decision = explore(toy.to_jax(toy.weights()), many)
    assert (NOISE in decision.extras) == (name == "dsrl_sac")
    if name == "dsrl_na":
        same = METHODS["dsrl_sac"](small("dsrl_sac", **{"dsrl.noise_magnitude": 1.5}))
        expected = jax.jit(same.explore)(toy.to_jax(toy.weights()), many).chunk
        np.testing.assert_array_equal(decision.chunk, expected)
        return
    noise = np.asarray(decision.extras[NOISE])
    assert np.abs(noise).max() <= 1.5
    # uniform: mean 0, deviation 1.5 / sqrt(3); 4000 numbers
    np.testing.assert_allclose(noise.mean(), 0, atol=0.04)
    np.testing.assert_allclose(noise.std(), 1.5 / math.sqrt(3), atol=0.02)
    # decoded once
    chunk = decode(setting, noise, many.obs)
    np.testing.assert_allclose(decision.chunk, chunk, atol=2e-6)
    # of episode and chunk alone
    few = explore(toy.to_jax(toy.weights()), jax.tree.map(lambda x: x, inputs()))
    again = explore(toy.to_jax(toy.weights()), inputs(chunk_index=np.int32([0] * 4)))
    np.testing.assert_array_equal(few.extras[NOISE][0], again.extras[NOISE][0])
    assert np.abs(few.extras[NOISE][1] - again.extras[NOISE][1]).max() > 0.1
    np.testing.assert_array_equal(again.extras[NOISE][1], again.extras[NOISE][2])


def test_first_rollouts_of_the_other_methods_are_clipped_where_they_are_judged():
    changes = {"dsrl.first_noise": "explore", "explore.noises": ("randn",)}
    changes |= {"explore.hold_chunks": (2,), "dsrl.noise_magnitude": 0.5}
    setting = small("dsrl_sac", **changes)
    acting = inputs()
    decision = dsrl_sac(setting).explore(toy.to_jax(toy.weights()), acting)
    of_episode = (acting.key, acting.seeds, acting.chunk_index, toy.CHUNK)
    noise = held_noise(("randn",), (2,), *of_episode)
    assert np.abs(noise).max() > 1
    np.testing.assert_array_equal(decision.extras[NOISE], np.clip(noise, -0.5, 0.5))
    # critics of chunks know no bounds
    setting = small("dsrl_na", **changes)
    chunk = dsrl_na(setting).explore(toy.to_jax(toy.weights()), acting).chunk
    expected = decode(setting, noise, acting.obs)
    np.testing.assert_allclose(chunk, expected, atol=2e-6)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("deterministic", [False, True])
def test_evaluations_sample_as_published_or_take_the_mode(name, deterministic):
    setting = small(name, **{"dsrl.deterministic_eval": deterministic})
    method, params = METHODS[name](setting), toy.to_jax(toy.weights())
    state, act = method.init(jax.random.key(0)), jax.jit(method.act)
    trained, evaluated, mode = (
        act(state, params, chosen).chunk
        for chosen in (inputs(), inputs(evaluating=True), inputs(key=None))
    )
    assert np.abs(trained - mode).max() > 1e-2
    expected = mode if deterministic else trained
    np.testing.assert_array_equal(evaluated, expected)


def test_critics_of_chunks_judge_them():
    setting = small()
    method = dsrl_na(setting)
    state = method.init(jax.random.key(0))
    obs = inputs().obs
    chunk = np.float32(np.random.default_rng(1).normal(size=(ENVS, *toy.CHUNK)))
    value = method.value(state, obs, chunk)
    ensemble = CriticEnsemble(2, 8, 1)
    q = ensemble.apply(state.sac.critic.params, obs, chunk.reshape(ENVS, -1))
    np.testing.assert_array_equal(value.members, q)
    np.testing.assert_array_equal(value.combined, q.min(0))
    np.testing.assert_array_equal(value.weight, np.ones(ENVS))
    assert dsrl_sac(small("dsrl_sac")).value is None


def test_what_makes_no_sense_is_refused():
    changes = {"replay.offline_dataset": "some.npz"}
    with pytest.raises(UserError, match=r"offline_dataset: found 'some.npz', expec"):
        dsrl_sac(small("dsrl_sac", **changes))
    dsrl_na(small(**changes))
    with pytest.raises(UserError, match=r"v_max: found 0.0, expected above 0 for meth"):
        dsrl_na(small(**{"critic.kind": "hl_gauss"}))
    method = dsrl_na(small())
    state = method.init(jax.random.key(0))
    several = np.zeros((ENVS, 3, *toy.CHUNK), np.float32)
    with pytest.raises(UserError, match=r"one draw an observation, found .*4, 3, 4, 2"):
        method.act(state, toy.to_jax(toy.weights()), inputs(noise=several))


FIELDS = {
    "dsrl.noise_magnitude": (2.0, {"act", "explore", "update"}),
    "dsrl.first_noise": ("explore", {"explore"}),
    "dsrl.actor_width": (24, {"act", "update"}),
    "dsrl.actor_depth": (2, {"act", "update"}),
    "dsrl.target_entropy": (-30.0, {"update"}),
    "dsrl.initial_entropy_coef": (0.1, {"update"}),
    "dsrl.deterministic_eval": (True, {"evaluate"}),
    "dsrl.distill_steps": (1, {"update"}),
    "dsrl.distill_noise": ("uniform", {"update"}),
    "target_reduce": ("random_pair", {"update"}),
    "critic.action_noise": (0.5, {"update"}),
    "critic.kind": ("quantile", {"update"}),
}


def observed(field, value):
    """What a run with this field moved does, by kind."""
    beside = {"critic.num": 3, "dsrl.distill_steps": 2, "learning_rate": 1e-2}
    setting = small(**beside | ({field: value} if field else {}))
    method, params = dsrl_na(setting), toy.to_jax(toy.weights())
    state = method.init(jax.random.key(0))
    batches = toy.transitions(0, 4, 16)
    batches = jax.tree.map(lambda leaf: leaf[: 2 + method.more_batches], batches)
    after, scalars = method.update(state, params, batches, jax.random.key(5), 0)
    rest = [after.sac.log_entropy_coef.params, *jax.tree.leaves(after.sac.actor.params)]
    judged = method.value(after, batches.obs[0], batches.action[0].reshape(16, 4, 2))
    imitated = scalars["train/noise_critic_loss"]
    numbers = [judged.members, imitated, *rest]
    return {
        "act": method.act(state, params, inputs()).chunk,
        "evaluate": method.act(state, params, inputs(evaluating=True)).chunk,
        "explore": method.explore(params, inputs()).chunk,
        "update": np.concatenate([np.ravel(n) for n in numbers]),
    }


@pytest.fixture(scope="module")
def unmoved():
    return observed(None, None)


@pytest.mark.slow
@pytest.mark.parametrize("field", FIELDS)
def test_a_field_changes_this_and_no_more(field, unmoved):
    value, changes = FIELDS[field]
    moved = observed(field, value)
    differ = {
        name
        for name, old in unmoved.items()
        if old.shape != moved[name].shape or np.abs(old - moved[name]).max() > 1e-6
    }
    # an evaluation acts as training does
    assert differ == changes | ({"evaluate"} if "act" in changes else set())


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_devices_with_their_own_batches_hold_the_same_state(name):
    """What were not averaged, gradient or scalar, each would have for itself."""
    setting = small(name, **{"dsrl.distill_steps": 2})
    alone, shared = (
        METHODS[name](setting._replace(average=average))
        for average in (lambda tree: tree, lambda tree: jax.lax.pmean(tree, "devices"))
    )
    state, params = alone.init(jax.random.key(0)), toy.to_jax(toy.weights())
    batches = toy.transitions(0, 2, 2 + alone.more_batches, 16)
    noise = np.random.default_rng(0).uniform(-1, 1, (*batches.reward.shape, *toy.CHUNK))
    batches = batches._replace(extras={NOISE: np.float32(noise)})
    keys = jax.random.split(jax.random.key(1))

    def update(method):
        own = jax.vmap(
            lambda batches, key: method.update(state, params, batches, key, 0),
            axis_name="devices",
        )
        return jax.jit(own)(batches, keys)

    for leaf in jax.tree.leaves(update(shared)):
        np.testing.assert_array_equal(leaf[0], leaf[1])
    apart = [
        np.abs(leaf[0] - leaf[1]).max()
        for leaf in jax.tree.leaves(update(alone)[0])
        if leaf.dtype == jnp.float32
    ]
    assert min(apart) > 0
