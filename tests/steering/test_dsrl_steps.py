"""DSRL's training calls: every part agrees with float64 PyTorch, step by step."""

import jax
import numpy as np
import pytest

from dynvgd_jax.steering import dsrl_na, dsrl_sac
from dynvgd_jax.steering.noise_acting import NOISE
from tests.steering import reference, toy
from tests.steering.torch_dsrl import Actor, Learner, Options, decoded

UTD, DISTILL, BATCH, CALLS = 3, 3, 8, 2
RATE, TAU = 1e-3, 0.1
PARTS = ("actor", "critics", "targets", "coef", "noise_critics")


def build(make, **changes):
    setting = toy.setting()
    config = setting.config
    settings = {
        "critic.num": 2,
        "critic.width": 16,
        "critic.depth": 2,
        "dsrl.actor_width": 16,
        "dsrl.actor_depth": 2,
        "dsrl.distill_steps": DISTILL,
        "dsrl.noise_magnitude": 1.5,
        "dsrl.target_entropy": -1.0,
        "dsrl.initial_entropy_coef": 0.7,
        "learning_rate": RATE,
        "target_tau": TAU,
        "target_clip": 0.0,
    }
    config.update_from_flattened_dict(settings | changes)
    return make(setting), config


def batches_of(seed, count):
    """As drawn: `discount` has gamma in it."""
    batches = toy.transitions(seed, count, BATCH)
    noise = np.random.default_rng(seed).uniform(-1.5, 1.5, (count, BATCH, *toy.CHUNK))
    return batches._replace(
        discount=np.float32(0.9) * batches.discount, extras={NOISE: np.float32(noise)}
    )


def drawn(key):
    """The actor's draws of a call's gradient steps, at s and at s'."""
    _, draw_key = jax.random.split(key)
    draws = jax.random.normal(draw_key, (2, UTD, BATCH, toy.FLAT))
    return np.float64(draws)


def torch_call(learner, batches, key, distill_noise):
    """One call on torch; its scalars, means over the steps."""
    now, after = drawn(key)
    scalars = []
    for i in range(UTD):
        batch = jax.tree.map(lambda leaf, i=i: np.float64(leaf[i]), batches)
        action = batch.action
        if not learner.noise_critics:
            action = batch.extras[NOISE].reshape(BATCH, -1) / learner.options.bound
        scalars.append(learner.gradient_step(batch, action, now[i], after[i]))
    means = {name: np.mean([s[name] for s in scalars]) for name in scalars[0]}
    if not learner.noise_critics:
        return means
    key = jax.random.fold_in(key, dsrl_na.DISTILL_KEY)
    shape, bound = (DISTILL, BATCH, toy.FLAT), learner.options.bound
    if distill_noise == "randn":
        noise = jax.random.normal(key, shape)
    else:
        noise = jax.random.uniform(key, shape, minval=-bound, maxval=bound)
    losses = [
        learner.distill_step(np.float64(batches.obs[UTD + i]), np.float64(noise[i]))
        for i in range(DISTILL)
    ]
    return means | {"train/noise_critic_loss": np.mean(losses)}


CASES = {
    "na": (dsrl_na.dsrl_na, {}),
    "na_mean_uniform": (
        dsrl_na.dsrl_na,
        {"target_reduce": "mean", "dsrl.distill_noise": "uniform"},
    ),
    "sac": (dsrl_sac.dsrl_sac, {}),
}


MORE = pytest.param("na_mean_uniform", marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=["na", MORE, "sac"])
def calls(request):
    """Our state, torch's and both's scalars, after two training calls."""
    make, changes = CASES[request.param]
    method, config = build(make, **changes)
    state = method.init(jax.random.key(3))
    options = Options(RATE, TAU, -1.0, 1.5, config.target_reduce)
    learner = Learner(state.sac, options, getattr(state, "noise_critic", None))
    params, update = toy.to_jax(toy.weights()), jax.jit(method.update)
    assert method.more_batches == (DISTILL if learner.noise_critics else 0)
    for number in range(CALLS):
        batches = batches_of(number, UTD + method.more_batches)
        key = jax.random.key(10 + number)
        state, scalars = update(state, params, batches, key, 0)
        expected = torch_call(learner, batches, key, config.dsrl.distill_noise)
    return state, learner, scalars, expected


def ours(state, part):
    sac = state.sac
    if part == "coef":
        return [[np.asarray(sac.log_entropy_coef.params)]]
    if part == "actor":
        return [jax.tree.leaves(sac.actor.params)]
    trees = {"critics": sac.critic.params, "targets": sac.critic.target_params}
    tree = state.noise_critic.params if part == "noise_critics" else trees[part]
    return [jax.tree.leaves(member) for member in reference.unstack(tree)]


def theirs(learner, part):
    if part == "coef":
        return [[learner.log_coef]]
    if part == "actor":
        return [jax.tree.leaves(learner.actor.tree)]
    return [jax.tree.leaves(member) for member in getattr(learner, part).members]


@pytest.mark.parametrize("part", PARTS)
def test_every_part_agrees_with_float64(calls, part):
    state, learner, *_ = calls
    if part == "noise_critics" and not learner.noise_critics:
        pytest.skip("DSRL-SAC has none")
    for got, want in zip(ours(state, part), theirs(learner, part), strict=True):
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b.detach().numpy(), atol=1e-5)


def test_scalars_agree_with_float64(calls):
    state, _, scalars, expected = calls
    for name, value in expected.items():
        np.testing.assert_allclose(scalars[name], value, rtol=2e-5, err_msg=name)
    np.testing.assert_array_equal(state.td_error, scalars["train/td_error_mean"])
    assert int(state.num_updates) == CALLS * UTD


def test_actions_agree_with_float64(calls):
    """From given draws, with our parameters; without one it is the actor's mode."""
    state, learner, *_ = calls
    make = dsrl_na.dsrl_na if learner.noise_critics else dsrl_sac.dsrl_sac
    method, _ = build(make)
    actor = Actor(state.sac.actor.params)
    rng = np.random.default_rng(5)
    obs = np.float32(rng.normal(size=(BATCH, toy.OBS_DIM)))
    draw = np.float32(rng.normal(size=(BATCH, *toy.CHUNK)))
    act = jax.jit(method.act)
    params = toy.to_jax(toy.weights())
    for given in (draw, None):
        decision = act(state, params, toy.inputs(obs, given))
        eps = np.zeros((BATCH, toy.FLAT)) if given is None else np.float64(draw)
        unit, _ = actor(np.float64(obs), eps.reshape(BATCH, -1))
        noise = 1.5 * unit.detach().numpy()
        chunk = decision.chunk.reshape(BATCH, -1)
        np.testing.assert_allclose(chunk, decoded(obs, noise), atol=2e-6)
        norm = np.linalg.norm(noise, axis=1).mean()
        np.testing.assert_allclose(
            decision.metrics["guide/noise_norm"], norm, rtol=1e-5
        )


def test_the_parts_did_move(calls):
    """Or they would agree without having learned."""
    state, learner, *_ = calls
    make = dsrl_na.dsrl_na if learner.noise_critics else dsrl_sac.dsrl_sac
    start = build(make)[0].init(jax.random.key(3))
    for part in PARTS if learner.noise_critics else PARTS[:-1]:
        moved = [
            np.abs(a - b).max()
            for one, other in zip(ours(state, part), ours(start, part), strict=True)
            for a, b in zip(one, other, strict=True)
        ]
        assert min(moved) > 2e-4, part
