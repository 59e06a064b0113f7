"""Guided step: weight and anneal by hand, the decode against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.diffusion.sampler import ddim_decode
from dynvgd_jax.diffusion.schedule import cosine_schedule, ddim_schedule
from dynvgd_jax.steering import guidance as G
from dynvgd_jax.steering.critics.mlp import CriticEnsemble, init_ensemble
from tests.steering import reference, toy

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
    guide_fn = G.make_guide_fn(
        options,
        schedule.num_steps,
        lambda o, a: ensemble.apply(params, o, a),
        jnp.float32(td_error),
        jnp.float32(options.scale),
    )
    return ddim_decode(
        toy.make_eps_fn(toy.to_jax(toy.weights())),
        schedule,
        jnp.float32(noise),
        jnp.float32(obs),
        guide_fn=guide_fn,
        guide_from_k=G.first_guided_step(options, schedule.num_steps),
        guide_end_k=options.first_k or schedule.num_steps,
        guide_estimate=options.point == "estimate",
    )


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


@pytest.mark.parametrize("reduce", ["min", "mean"])
@pytest.mark.parametrize("anneal", ["linear", "cosine", "off"])
@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("ddim_steps, last_k", [(4, 2), (8, 3), (4, 0)])
def test_decode_agrees_with_float64(reduce, anneal, dynamic, ddim_steps, last_k):
    ensemble, params, obs, noise = setup()
    options = G.Guidance(
        scale=0.02,
        last_k=last_k,
        time_anneal=anneal,
        reduce=reduce,
        dynamic=dynamic,
        c_local=2.0,
    )
    schedule = ddim_schedule(cosine_schedule(20), ddim_steps)
    x, stats = decode(ensemble, params, schedule, obs, noise, options)
    expected = decode_in_float64(params, schedule, obs, noise, options)
    plain, _ = ddim_decode(
        toy.make_eps_fn(toy.to_jax(toy.weights())),
        schedule,
        jnp.float32(noise),
        jnp.float32(obs),
    )
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
        scale=0.02, last_k=last_k, first_k=first_k, point=point, c_local=2.0
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
    plain, _ = ddim_decode(
        toy.make_eps_fn(toy.to_jax(toy.weights())),
        schedule,
        jnp.float32(noise),
        jnp.float32(obs),
    )
    np.testing.assert_array_equal(x, plain)
    assert stats == []


def test_weight_by_hand():
    # Two samples, four critics: {1, 2, 3, 4} has sample variance 5/3, {2, 2, 2, 2} 0.
    q = jnp.array([[1.0, 2.0], [2.0, 2.0], [3.0, 2.0], [4.0, 2.0]])
    options = G.Guidance(beta=2.0, c_local=5.0, c_global=100.0)
    w = G.dynamic_weight(q, jnp.float32(10.0), options)
    # exp(-2 * 1.2909944 / 5) * exp(-2 * 10 / 100) = 0.5966660 * 0.8187308
    np.testing.assert_allclose(w, [0.4885088, 0.8187308], rtol=1e-6)


def test_weight_limits():
    q = jnp.array([[0.0, 0.0], [1e4, 0.0]])
    options = G.Guidance()
    np.testing.assert_allclose(
        G.dynamic_weight(q, jnp.float32(0.0), options), [1e-3, 1.0], rtol=1e-6
    )
    np.testing.assert_allclose(
        G.dynamic_weight(q, jnp.float32(1e6), options), 1e-3, rtol=1e-6
    )
    one_critic = jnp.array([[3.0, -9.0]])
    np.testing.assert_array_equal(
        G.dynamic_weight(one_critic, jnp.float32(0.0), options), [1.0, 1.0]
    )


def test_anneals_by_hand():
    # K = 8, k = 5 (first guided step of last_k = 3): 6/8, and 0.5 - 0.5 cos(135 deg).
    assert G.ANNEALS["linear"](5, 8) == 0.75
    assert G.ANNEALS["cosine"](5, 8) == pytest.approx(0.8535534)
    assert G.ANNEALS["off"](5, 8) == 1.0
    assert all(anneal(7, 8) == 1.0 for anneal in G.ANNEALS.values())


def test_one_step_with_linear_critics_by_hand():
    """Q_i = a_i . z with a_0 = (1, 0), a_1 = (0, 2): the minimal critic steers."""
    slopes = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    options = G.Guidance(scale=0.1, time_anneal="linear", beta=0.0)
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
    means = {}
    for on in (True, False):
        guide_fn = G.make_guide_fn(
            G.Guidance(),
            8,
            lambda o, a: ensemble.apply(params, o, a),
            jnp.float32(50.0),
            jnp.float32(0.005),
            weight_on=jnp.asarray(on),
        )
        means[on] = float(guide_fn(jnp.float32(obs), z, 7)[1].weight_mean)
    assert means[False] == 1.0 and means[True] < 0.61


def test_summary_names_and_q_after_the_step():
    ensemble, params, obs, noise = setup()
    options = G.Guidance(scale=0.02)
    schedule = ddim_schedule(cosine_schedule(20), 8)
    _, stats = decode(ensemble, params, schedule, obs, noise, options)
    q_fn = lambda o, a: ensemble.apply(params, o, a)  # noqa: E731
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


def test_last_k_out_of_range_is_refused():
    with pytest.raises(UserError, match="last_k is 9"):
        G.first_guided_step(G.Guidance(last_k=9), 8)
    assert G.first_guided_step(G.Guidance(last_k=0), 8) == 0
    assert G.first_guided_step(G.Guidance(last_k=3), 8) == 5
