"""Guided steps: anneal and step by hand, the decode against float64 NumPy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.diffusion.base import decode as plain_decode
from dynvgd_jax.diffusion.ddim import make_ddim
from dynvgd_jax.diffusion.network import DiffusionMLP, bind
from dynvgd_jax.diffusion.schedule import cosine_schedule, ddim_schedule
from dynvgd_jax.steering import guidance as G
from dynvgd_jax.steering.critics.mlp import CriticEnsemble, init_ensemble
from dynvgd_jax.steering.weight import Weighting
from tests.diffusion.helpers import random_params
from tests.steering import reference, toy
from tests.support import reference as policy_reference

BATCH = 6


def setup(seed=0, num=4):
    """Critics spread and steep enough that weights and pushes matter."""
    ensemble = CriticEnsemble(num=num, width=16, depth=3)
    params = init_ensemble(ensemble, jax.random.key(seed), toy.OBS_DIM, toy.FLAT)
    params = jax.tree.map(lambda leaf: 3.0 * leaf, params)
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(BATCH, toy.OBS_DIM))
    noise = rng.normal(size=(BATCH, *toy.CHUNK))
    return ensemble, params, obs, noise


def decode(ensemble, params, schedule, obs, noise, options, td_error=7.0):
    """The decode of the toy policy, guided by `ensemble` as `options` say."""

    def run(weights, params, noise, obs):
        guide_fn = G.make_guide_fn(
            options,
            schedule.num_steps,
            lambda o, a: ensemble.apply(params, o, a),
            jnp.float32(td_error),
            jnp.float32(options.scale),
        )
        denoiser = make_ddim(toy.make_eps_fn, schedule)
        steps = G.guided_steps(options, schedule.num_steps)
        return G.guided_decode(
            denoiser,
            denoiser.prepare(weights),
            noise,
            obs,
            guide_fn,
            steps,
            options.point,
        )

    weights = toy.to_jax(toy.weights())
    return jax.jit(run)(weights, params, jnp.float32(noise), jnp.float32(obs))


@functools.cache
def unguided_decode(ddim_steps):
    schedule = ddim_schedule(cosine_schedule(20), ddim_steps)
    denoiser = make_ddim(toy.make_eps_fn, schedule)
    run = jax.jit(lambda w, x, o: plain_decode(denoiser, denoiser.prepare(w), x, o))
    weights = toy.to_jax(toy.weights())
    return lambda noise, obs: run(weights, jnp.float32(noise), jnp.float32(obs))


def decode_in_float64(params, schedule, obs, noise, options):
    """What `decode` should return."""
    return reference.guided_decode(
        toy.make_eps_fn(toy.weights(), np),
        *schedule,
        reference.unstack(params),
        noise,
        obs,
        options,
        td_error=7.0,
    )


# Every pair of choices stands in one of the quick ones.
QUICK = {
    ("min", "linear", True, (4, 2)),
    ("mean", "linear", False, (8, 3)),
    ("min", "cosine", False, (4, 0)),
    ("mean", "cosine", True, (8, 3)),
    ("min", "off", True, (4, 0)),
    ("mean", "off", False, (4, 2)),
    ("mean", "linear", True, (4, 0)),
    ("min", "cosine", False, (4, 2)),
    ("min", "off", True, (8, 3)),
}
ALL = list(
    itertools.product(
        ("min", "mean"),
        ("linear", "cosine", "off"),
        (True, False),
        ((4, 2), (8, 3), (4, 0)),
    )
)
CASES = [
    pytest.param(*case[:3], *case[3], marks=() if case in QUICK else pytest.mark.slow)
    for case in ALL
]


def test_the_quick_cases_hold_every_pair_of_choices():
    assert len(CASES) == 36
    for i, j in itertools.combinations(range(4), 2):
        everything = {(case[i], case[j]) for case in ALL}
        assert {(case[i], case[j]) for case in QUICK} == everything


@pytest.mark.parametrize("reduce, anneal, dynamic, ddim_steps, last_k", CASES)
def test_decode_agrees_with_float64(reduce, anneal, dynamic, ddim_steps, last_k):
    ensemble, params, obs, noise = setup()
    options = G.Guidance(
        scale=0.02,
        last_k=last_k,
        time_anneal=anneal,
        reduce=reduce,
        dynamic=dynamic,
        weighting=Weighting(c_local=2.0),
    )
    schedule = ddim_schedule(cosine_schedule(20), ddim_steps)
    x, stats = decode(ensemble, params, schedule, obs, noise, options)
    expected = decode_in_float64(params, schedule, obs, noise, options)
    plain = unguided_decode(ddim_steps)(noise, obs)
    assert len(stats) == (last_k or ddim_steps)
    assert np.abs(expected - plain).max() > 1e-3  # guidance did something
    # Early steps multiply float32 rounding by up to 1/sqrt(alpha) (noisiest: 20).
    np.testing.assert_allclose(x, expected, atol=5e-6 if last_k else 5e-5)


@pytest.mark.parametrize(
    ("point", "last_k", "first_k"),
    [("estimate", 0, 2), ("estimate", 2, 0), ("decoded", 0, 2), ("decoded", 3, 2)],
)
def test_other_points_and_early_steps_agree_with_float64(point, last_k, first_k):
    ensemble, params, obs, noise = setup()
    options = G.Guidance(
        scale=0.02,
        last_k=last_k,
        first_k=first_k,
        point=point,
        weighting=Weighting(c_local=2.0),
    )
    schedule = ddim_schedule(cosine_schedule(20), 4)
    x, stats = decode(ensemble, params, schedule, obs, noise, options)
    expected = decode_in_float64(params, schedule, obs, noise, options)
    assert len(stats) == (last_k or 4) - (4 - first_k if first_k else 0)
    # Early steps multiply float32 rounding by up to 1/sqrt(alpha) (noisiest: 20).
    np.testing.assert_allclose(x, expected, atol=5e-5)
    published = options._replace(point="decoded", first_k=0)
    other, _ = decode(ensemble, params, schedule, obs, noise, published)
    assert np.abs(other - x).max() > 1e-3


def test_scale_zero_is_plain_ddim_bit_for_bit():
    ensemble, params, obs, noise = setup()
    schedule = ddim_schedule(cosine_schedule(20), 8)
    options = G.Guidance(scale=0.0)
    x, stats = decode(ensemble, params, schedule, obs, noise, options)
    plain = unguided_decode(8)(noise, obs)
    np.testing.assert_array_equal(x, plain)
    assert stats == []


def test_anneals_by_hand():
    # K = 8, k = 5 (first guided step of last_k = 3): 6/8, and 0.5 - 0.5 cos(135 deg).
    assert G.ANNEALS["linear"](5, 8) == 0.75
    assert G.ANNEALS["cosine"](5, 8) == pytest.approx(0.8535534)
    assert G.ANNEALS["off"](5, 8) == 1.0
    assert all(anneal(7, 8) == 1.0 for anneal in G.ANNEALS.values())


def test_one_step_with_linear_critics_by_hand():
    """Q_i = a_i . z with a_0 = (1, 0), a_1 = (0, 2): the minimal critic steers."""
    slopes = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    options = G.Guidance(scale=0.1, time_anneal="linear", weighting=Weighting(beta=0.0))
    guide_fn = G.make_guide_fn(
        options, 4, lambda o, a: slopes @ a.T, jnp.float32(0), jnp.float32(0.1)
    )
    z = jnp.array([[[0.2, 0.5]], [[0.9, 0.3]], [[0.99, 2.0]]])
    x0, stats = guide_fn(jnp.zeros((3, 1)), z, 1)
    # lambda_1 = 0.1 * 2/4 = 0.05. Sample 0: q = (0.2, 1.0), g = (1, 0).
    # Sample 1: q = (0.9, 0.6), g = (0, 2). Sample 2: q = (0.99, 4), clipped to 1.
    np.testing.assert_allclose(
        x0[:, 0], [[0.25, 0.5], [0.9, 0.4], [1.0, 1.0]], rtol=1e-6
    )
    np.testing.assert_allclose(stats.lambda_mean, 0.05, rtol=1e-6)
    np.testing.assert_allclose(stats.weight_mean, 1.0)
    np.testing.assert_allclose(stats.grad_norm, (1 + 2 + 1) / 3, rtol=1e-6)
    np.testing.assert_allclose(stats.weighted_grad_norm, 0.2 / 3, rtol=1e-6)
    np.testing.assert_allclose(stats.q_pre, (0.2 + 0.6 + 0.99) / 3, rtol=1e-6)
    # Sample 2 moves by (0.01, -1): |delta| = 1.00005, cosine with g 0.01 / 1.00005.
    moved = np.hypot(0.01, 1.0)
    np.testing.assert_allclose(stats.delta_norm, (0.05 + 0.1 + moved) / 3, rtol=1e-5)
    np.testing.assert_allclose(stats.cosine, (2 + 0.01 / moved) / 3, rtol=1e-5)
    np.testing.assert_allclose(stats.cosine_pos_frac, 1.0)


def test_fixed_weight_neither_weighs_nor_clips():
    options = G.Guidance(scale=1.0, time_anneal="off", dynamic=False)
    guide_fn = G.make_guide_fn(
        options,
        4,
        lambda o, a: jnp.stack([a.sum(-1), a.sum(-1) + 9]),
        jnp.float32(1e3),
        jnp.float32(1.0),
    )
    x0, stats = guide_fn(jnp.zeros((1, 1)), jnp.full((1, 1, 2), 0.5), 0)
    np.testing.assert_allclose(x0, 1.5)
    np.testing.assert_allclose(stats.weight_mean, 1.0)


def test_weight_off_before_its_warmup():
    ensemble, params, obs, _ = setup()
    z = jnp.float32(np.random.default_rng(3).uniform(-0.5, 0.5, (BATCH, *toy.CHUNK)))

    @jax.jit
    def mean_weight(params, on):
        guide_fn = G.make_guide_fn(
            G.Guidance(),
            8,
            lambda o, a: ensemble.apply(params, o, a),
            jnp.float32(50.0),
            jnp.float32(0.005),
            weight_on=on,
        )
        return guide_fn(jnp.float32(obs), z, 7)[1].weight_mean

    means = {on: float(mean_weight(params, jnp.asarray(on))) for on in (True, False)}
    assert means[False] == 1.0 and means[True] < 0.61


def test_summary_names_and_q_after_the_step():
    ensemble, params, obs, noise = setup()
    options = G.Guidance(scale=0.02)
    schedule = ddim_schedule(cosine_schedule(20), 8)
    _, stats = decode(ensemble, params, schedule, obs, noise, options)
    q_fn = jax.jit(lambda o, a: ensemble.apply(params, o, a))
    out = G.summarise(stats, jnp.float32(obs), q_fn, options, jnp.float32(0.02))
    published = (
        "lambda_base lambda_mean weight_mean grad_norm weighted_grad_norm delta_norm "
        "ratio_weighted_grad_to_delta cosine cosine_pos_frac q_pre q_post delta_q"
    )
    assert set(out) == {f"guide/{name}" for name in published.split()}
    by_hand = np.mean(
        [q_fn(jnp.float32(obs), s.x0.reshape(BATCH, -1)).min(0).mean() for s in stats]
    )
    np.testing.assert_allclose(out["guide/q_post"], by_hand, rtol=1e-5)
    # A small step along the gradient of min Q raises it.
    assert out["guide/delta_q"] > 0
    assert G.summarise([], jnp.float32(obs), q_fn, options, jnp.float32(0)) == {}


def test_steps_out_of_range_are_refused():
    with pytest.raises(UserError, match=r"last_k: found 9, expected at most .* = 8"):
        G.guided_steps(G.Guidance(last_k=9), 8)
    assert G.guided_steps(G.Guidance(last_k=0), 8) == range(8)
    assert G.guided_steps(G.Guidance(last_k=3), 8) == range(5, 8)
    assert G.guided_steps(G.Guidance(last_k=3, first_k=7), 8) == range(5, 7)
    for first_k in (5, 9):
        with pytest.raises(UserError, match=f"first_k: found {first_k}, .* or 6 to 8"):
            G.guided_steps(G.Guidance(last_k=3, first_k=first_k), 8)
    # Where nothing is guided the whole decode is the plain one.
    assert G.guided_steps(G.Guidance(last_k=3, scale=0.0), 8) == range(8, 8)


# A network of the policy's kind, and a guide that knows no critics.
NET = dict(time_dim=16, hidden_dims=(64, 64, 64), cond_dims=(32, 16))


@functools.cache
def network_setup():
    net = DiffusionMLP(23, 7, 4, **NET)
    # A larger output makes the predicted noise about unit size.
    params = random_params(net, seed=3, out_scale=8)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(6, 4, 7)).astype(np.float32)
    obs = rng.uniform(-1, 1, size=(6, 23)).astype(np.float32)

    def eps64(x, t, obs):
        return policy_reference.network(params, x, np.full(len(x), t), obs, **NET)

    return jax.jit(bind(net, params)), eps64, noise, obs


def pull(obs, z, k):
    """A guide that depends on everything it receives; the same in NumPy and JAX."""
    return 0.8 * z + 0.02 * (k + 1) * obs[:, :1, None].reshape(-1, 1, 1) * z, {"k": k}


def pull64(obs, z, k):
    return pull(np.float64(obs), z, k)[0]


def pulled(eps_fn, num_train, ddim_steps, noise, obs, steps, **options):
    """The decode that `pull` guides in `steps`."""
    schedule = ddim_schedule(cosine_schedule(num_train), ddim_steps)
    denoiser = make_ddim(lambda eps_fn: eps_fn, schedule)
    return G.guided_decode(denoiser, eps_fn, noise, obs, pull, steps, **options)


@pytest.mark.parametrize("num_train", [20, 100])
@pytest.mark.parametrize("first", [0, 1, 3])
def test_guided_network_agrees_with_float64(num_train, first):
    eps_fn, eps64, noise, obs = network_setup()
    x, stats = pulled(eps_fn, num_train, 4, noise, obs, range(first, 4))
    expected = policy_reference.ddim_decode(
        eps64, noise, obs, num_train, 4, pull64, first
    )
    plain = policy_reference.ddim_decode(eps64, noise, obs, num_train, 4)
    np.testing.assert_allclose(x, expected, atol=2e-5)
    assert np.max(np.abs(expected - plain)) > 0.02
    assert [s["k"] for s in stats] == list(range(first, 4))


@pytest.mark.parametrize("jit", [True, False])
def test_no_guided_step_is_the_plain_decode_bit_for_bit(jit):
    eps_fn, _, noise, obs = network_setup()
    schedule = ddim_schedule(cosine_schedule(20), 8)
    denoiser = make_ddim(lambda eps_fn: eps_fn, schedule)

    def run(function):
        return np.asarray((jax.jit(function) if jit else function)(noise, obs))

    plain = run(lambda x, o: plain_decode(denoiser, eps_fn, x, o))
    for point in G.POINTS:
        none = run(
            lambda x, o, point=point: pulled(
                eps_fn, 20, 8, x, o, range(8, 8), point=point
            )[0]
        )
        np.testing.assert_array_equal(none, plain)


def test_jit_agrees_with_eager():
    eps_fn, _, noise, obs = network_setup()
    run = lambda x, o: pulled(eps_fn, 20, 4, x, o, range(4))[0]  # noqa: E731
    np.testing.assert_allclose(jax.jit(run)(noise, obs), run(noise, obs), atol=2e-6)


@pytest.mark.parametrize("split", [0, 3, 5])
def test_prefix_and_guided_rest_are_the_whole(split):
    eps_fn, _, noise, obs = network_setup()
    denoiser = make_ddim(lambda eps_fn: eps_fn, ddim_schedule(cosine_schedule(20), 8))
    whole, stats = pulled(eps_fn, 20, 8, noise, obs, range(5, 8))
    x = plain_decode(denoiser, eps_fn, noise, obs, end_k=split)
    x, late = pulled(eps_fn, 20, 8, x, obs, range(5, 8), first_k=split)
    assert np.array_equal(x, whole) and len(late) == len(stats) == 3
    done, none = pulled(eps_fn, 20, 8, whole, obs, range(5, 8), first_k=8)
    assert np.array_equal(done, whole) and none == []


def test_a_first_step_out_of_range_is_refused():
    eps_fn, _, noise, obs = network_setup()
    with pytest.raises(ValueError, match="range"):
        pulled(eps_fn, 20, 4, noise, obs, range(4), first_k=5)


def test_old_timestep_at_the_advanced_x():
    # Records the timesteps that the network sees: K = 2, guided at k = 0 and 1.
    # k = 0: plain step (t = 10), rest (t = 0), noise again at t = 10;
    # k = 1: plain step (t = 0), no rest, no noise left.
    seen = []

    def eps_fn(x, t, obs):
        seen.append(int(t))
        return jnp.zeros_like(x)

    noise, obs = jnp.ones((1, 2, 3)), jnp.ones((1, 4))
    pulled(eps_fn, 20, 2, noise, obs, range(2))
    assert seen == [10, 0, 10, 0]
    # The estimate's step evaluates the network once.
    seen.clear()
    pulled(eps_fn, 20, 2, noise, obs, range(2), point="estimate")
    assert seen == [10, 0]
