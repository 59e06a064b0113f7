"""HL-Gauss critics: projection and loss by hand, by PyTorch, and what they learn."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from configs import base
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import set_fields
from dynvgd_jax.steering.critics import hl_gauss, kinds
from dynvgd_jax.steering.critics.hl_gauss import (
    ROOM,
    Bins,
    cross_entropy,
    hl_gauss_critic,
    start_logits,
)
from dynvgd_jax.steering.critics.mlp import CriticEnsemble, MeanTarget
from tests.steering.torch_critics import (
    ACT,
    BATCH,
    OBS,
    Kind,
    check_three_steps,
    fresh,
    learn,
    rows,
)

# Each compiled as one program.
project = jax.jit(hl_gauss.project, static_argnums=1)
expected = jax.jit(hl_gauss.expected, static_argnums=1)

# Ten bins of 2; with three beyond either end the edges are -26, -24, ... 6.
BINS = Bins(-20.0, 0.0, 10)
CENTRES = np.arange(-25.0, 6.0, 2.0)


def make(num=3, reduce="min", bins=BINS, initial_value=-5.0, clip=400.0):
    ensemble = CriticEnsemble(num, 16, 2, bins.total)
    options = MeanTarget(reduce, clip)
    return hl_gauss_critic(ensemble, OBS, ACT, options, bins, initial_value)


def gauss(y, bins=BINS):
    """Probabilities `[bins]` of one target in float64, bin by bin."""
    y = min(max(y, bins.v_min), bins.v_max)
    width = (bins.v_max - bins.v_min) / bins.inner
    found = []
    for b in range(-3, bins.inner + 3):
        left, right = (bins.v_min + width * (b + i) for i in (0, 1))
        scale = 0.75 * width * math.sqrt(2)
        found.append(math.erf((right - y) / scale) - math.erf((left - y) / scale))
    return np.array(found) / sum(found)


def test_bins_by_hand():
    assert (BINS.total, BINS.width) == (16, 2.0)
    np.testing.assert_array_equal(BINS.centres, CENTRES)


def test_projection_by_hand():
    # -10 is an edge: with sigma 1.5 either side has Phi(2 / 1.5) - 1/2 = 0.40879 in the
    # next bin, Phi(4 / 1.5) - Phi(2 / 1.5) = 0.08738 in the second, and
    # Phi(6 / 1.5) - Phi(4 / 1.5) = 0.00380 in the third.
    probs = np.exp(project(jnp.array([-10.0]), BINS))[0]
    half = [0.408789, 0.087381, 0.003799]
    np.testing.assert_allclose(probs[5:11], half[::-1] + half, atol=2e-6)
    np.testing.assert_allclose(probs.sum(), 1, rtol=1e-6)
    # -9 is a centre: its bin holds 2 Phi(1 / 1.5) - 1 = 0.49501.
    np.testing.assert_allclose(
        np.exp(project(jnp.array(-9.0), BINS))[8], 0.495015, atol=2e-6
    )


@pytest.mark.parametrize("y", [-1e6, -20.0, -19.9, -13.3, -1.0, -1e-3, 0.0, 7.0])
def test_projection_agrees_with_float64_and_keeps_the_mean(y):
    log_probs = project(jnp.float32(y), BINS)
    assert np.isfinite(log_probs).all()
    np.testing.assert_allclose(np.exp(log_probs), gauss(y), atol=1e-6)
    clipped = min(max(y, -20.0), 0.0)
    np.testing.assert_allclose(expected(log_probs, BINS), clipped, atol=1e-3)


def test_projection_resolves_a_narrow_range_far_from_0():
    bins = Bins(1e6, 1e6 + 10, 10)
    probs = np.exp(project(jnp.float32(1e6 + 5), bins))
    np.testing.assert_allclose(probs, gauss(-10.0), atol=1e-6)


def test_loss_by_hand():
    y = jnp.log(jnp.array([[0.5, 0.5], [0.25, 0.75]]))
    log_probs = jnp.log(jnp.array([[[0.5, 0.5], [0.5, 0.5]], [[0.8, 0.2]] * 2]))
    # Critic 0: log 2. Critic 1: the mean of -(log 0.8 + log 0.2) / 2 = 0.916291 and
    # -(log 0.8 + 3 log 0.2) / 4 = 1.262864.
    loss = cross_entropy(log_probs, y)
    np.testing.assert_allclose(loss, math.log(2) + 1.0895775, rtol=1e-6)


def test_mean_and_mixture_by_hand():
    critic = make()
    uniform = jnp.full((2, 3, 16), -math.log(16))
    np.testing.assert_allclose(critic.mean(uniform), np.full((2, 3), -10.0), rtol=1e-5)
    y = project(jnp.array([[-10.0, -2.0]]), BINS)  # one state, two proposals
    mixed = critic.mix(y)
    assert mixed.shape == (1, 16)
    average = (gauss(-10.0) + gauss(-2.0)) / 2
    np.testing.assert_allclose(np.exp(mixed[0]), average, atol=1e-6)
    np.testing.assert_allclose(critic.mean(mixed), [-6.0], atol=1e-4)


def test_target_by_hand():
    log_probs = project(jnp.array([[-10.0, -2.0, -9.0], [-12.0, -1.0, -9.0]]), BINS)
    reward, discount = jnp.array([-4.0, 5.0, -3.0]), jnp.array([0.5, 0.5, 0.0])
    # -4 - 6 = -10; 5 - 1 = 4 counts as v_max; an end: -3.
    y = jax.jit(make().target)(log_probs, reward, discount)
    wanted = np.stack([gauss(-10.0), gauss(0.0), gauss(-3.0)])
    np.testing.assert_allclose(np.exp(y), wanted, atol=2e-5)
    y = jax.jit(make(reduce="mean", clip=9.0).target)(log_probs, reward, discount)
    # -4 - 5.5 is clipped to -9.
    wanted = np.stack([gauss(-9.0), gauss(0.0), gauss(-3.0)])
    np.testing.assert_allclose(np.exp(y), wanted, atol=2e-5)


def torch_project(y, centres):
    """With the distribution functions of torch, normalised."""
    width = (centres[1] - centres[0]).item()
    normal = torch.distributions.Normal(y[:, None], 0.75 * width)
    inside = normal.cdf(centres + width / 2) - normal.cdf(centres - width / 2)
    return inside / inside.sum(-1, keepdim=True)


def torch_kind(reduce):
    centres = torch.tensor(CENTRES)

    def mean(logits):
        return (logits.softmax(-1) * centres).sum(-1)

    def target(next_logits, reward, discount):
        q = mean(next_logits)
        value = q.min(0).values if reduce == "min" else q.mean(0)
        return torch_project((reward + discount * value).clamp(-20, 0), centres)

    def loss(logits, probs):
        # torch's own, of one critic at a time
        of_critics = (torch.nn.functional.cross_entropy(x, probs) for x in logits)
        return sum(of_critics)

    return Kind(target, loss, mean, lambda probs: (probs * centres).sum(-1))


@pytest.mark.parametrize(("num", "reduce"), [(3, "min"), (2, "mean")])
def test_three_steps_agree_with_torch(num, reduce):
    check_three_steps(make(num, reduce), torch_kind(reduce))


def test_loss_and_gradient_agree_with_torch():
    rng = np.random.default_rng(0)
    logits, y = rng.normal(scale=3.0, size=(2, 5, 16)), rng.uniform(-25, 5, 5)
    leaf = torch.tensor(logits, requires_grad=True)
    probs = torch_project(torch.tensor(y).clamp(-20, 0), torch.tensor(CENTRES))
    wanted = torch_kind("min").loss(leaf, probs)
    wanted.backward()

    def loss_fn(logits):
        return cross_entropy(jax.nn.log_softmax(logits), project(jnp.float32(y), BINS))

    loss, grad = jax.jit(jax.value_and_grad(loss_fn))(jnp.float32(logits))
    np.testing.assert_allclose(loss, wanted.item(), rtol=1e-5)
    np.testing.assert_allclose(grad, leaf.grad, atol=1e-6)


def test_logits_far_apart_stay_finite():
    logits = jnp.zeros((1, 2, 16)).at[:, 0, 3].set(1e4)
    log_probs = jax.nn.log_softmax(logits)
    y = project(jnp.array([-2.0, -2.0]), BINS)
    assert np.isfinite(cross_entropy(log_probs, y))
    np.testing.assert_allclose(expected(log_probs, BINS)[0, 0], CENTRES[3], rtol=1e-6)


@pytest.mark.parametrize("value", [-20.0, -10.0, -3.7, 0.0])
def test_fresh_critics_start_from_a_value(value):
    logits = np.float64(start_logits(value, BINS))
    probs = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(probs @ CENTRES, value, atol=1e-4)
    # of most entropy: exponential in the centres
    steps = np.diff(logits)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3, atol=1e-5)
    critic = make(num=64, initial_value=value)
    q = jax.jit(critic.q)(fresh(critic), *rows())
    np.testing.assert_allclose(q.mean(), value, atol=0.5)  # a quarter of a bin


def test_bins_that_were_unlikely_at_first_can_be_learned():
    """From the range's one end to its other."""
    learned = learn(make(2, initial_value=0.0), np.array([-19.0]), steps=500)
    np.testing.assert_allclose(expected(learned, BINS), -19.0, atol=0.2)


@pytest.mark.slow
def test_the_mean_of_a_known_distribution_is_learned():
    """0 three times in four, else -16: the mean is -4, the median 0."""
    learned = learn(make(2), np.array([0.0, 0.0, 0.0, -16.0]), steps=1500)
    np.testing.assert_allclose(expected(learned, BINS), -4.0, atol=0.7)
    # and the whole distribution, smoothed
    wanted = 0.75 * gauss(0.0) + 0.25 * gauss(-16.0)
    np.testing.assert_allclose(np.exp(learned), np.stack([wanted] * 2), atol=0.05)


def test_the_ends_of_the_range_keep_their_value_in_every_backup():
    """Without room beyond the end, a best return would sink, backup after backup."""
    critic, log_probs = make(1), project(jnp.array([[0.0, -20.0]]), BINS)
    target = jax.jit(critic.target)
    for _ in range(50):
        log_probs = target(log_probs, jnp.zeros(2), jnp.ones(2))[None]
    np.testing.assert_allclose(critic.mean(log_probs), [[0.0, -20.0]], atol=0.05)
    assert ROOM * BINS.width / (0.75 * BINS.width) == 4


def test_sizes_and_options_come_from_their_fields():
    config = base.get_config()
    config.critic.kind, config.critic.bins = "hl_gauss", 10
    config.critic.v_min, config.critic.v_max = -20.0, 0.0
    config.critic.num, config.critic.width, config.critic.depth = 3, 16, 2
    config.critic.initial_value = -5.0
    config.target_reduce, config.target_clip = "mean", 9.0
    critic, wanted = kinds.make_critic(config, OBS, ACT), make(3, "mean", clip=9.0)
    params = fresh(critic)
    jax.tree.map(np.testing.assert_array_equal, params, fresh(wanted))
    log_probs = jax.jit(critic.predict)(params, *rows())
    assert log_probs.shape == (3, BATCH, 16)
    steps = log_probs, jnp.full(BATCH, -6.0), jnp.full(BATCH, 0.9)
    target, wanted_target = (jax.jit(c.target)(*steps) for c in (critic, wanted))
    np.testing.assert_array_equal(target, wanted_target)
    np.testing.assert_allclose(critic.mean(target), -9.0, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"critic.v_min": 0.0}, "v_min: found 0.0, expected less than v_max = 0.0"),
        ({"critic.v_max": -500.0}, "v_min: found -400.0, expected less than v_max"),
        (
            {"critic.initial_value": 3.0},
            "initial_value: found 3.0, .* to 0.0",
        ),
    ],
)
def test_a_range_that_is_none_is_named(changes, message):
    config = set_fields(base.get_config(), {"critic.kind": "hl_gauss"} | changes)
    with pytest.raises(UserError, match=message):
        kinds.make_critic(config, OBS, ACT)
