"""The schedules' numbers, by hand for T = 20."""

import numpy as np
import pytest

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.diffusion.schedule import cosine_schedule, ddim_schedule
from tests.support import reference


def test_cosine_schedule_by_hand():
    # abar(i) = cos((i / 20 + 0.008) / 1.008 * pi / 2)^2, and cos^2 = 1 - sin^2.
    # i = 0: angle 0.0124666, sin 0.0124663, abar 0.99984459
    # i = 1: angle 0.0903831, sin 0.0902601, abar 0.99185311
    #   beta_0 = 1 - 0.99185311 / 0.99984459 = 0.0079927
    # i = 2: angle 0.1682996, sin 0.1675062, abar 0.97194167
    #   beta_1 = 1 - 0.97194167 / 0.99185311 = 0.0200750
    # i = 20: angle pi / 2, abar 0, beta_19 = 1, bounded by 0.999
    schedule = cosine_schedule(20)
    np.testing.assert_allclose(schedule.betas[:2], [0.0079927, 0.0200750], rtol=2e-5)
    assert schedule.betas[19] == np.float32(0.999)
    # alphas_cumprod_0 = 1 - 0.0079927; _1 = 0.97194167 / 0.99984459 = 0.9720927
    np.testing.assert_allclose(
        schedule.alphas_cumprod[:2], [0.9920073, 0.9720927], rtol=2e-6
    )
    assert all(field.dtype == np.float32 for field in schedule)
    assert schedule.num_train_timesteps == 20


def test_posterior_by_hand():
    # t = 0: abar_prev = 1, so x_{-1} = x0 exactly: coefficients 1 and 0, variance 0.
    # t = 1: abar 0.9720927, abar_prev 0.9920073, beta 0.0200750:
    #   x0: 0.0200750 * sqrt(0.9920073) / 0.0279073 = 0.716468
    #   xt: 0.0079927 * sqrt(0.9799250) / 0.0279073 = 0.283513
    #   var: 0.0200750 * 0.0079927 / 0.0279073 = 0.0057495
    schedule = cosine_schedule(20)
    np.testing.assert_allclose(schedule.posterior_x0_coef[:2], [1, 0.71647], rtol=1e-4)
    np.testing.assert_allclose(schedule.posterior_xt_coef[:2], [0, 0.28351], rtol=1e-4)
    np.testing.assert_allclose(
        schedule.posterior_variance[:2], [0, 0.0057495], rtol=1e-4
    )


def test_linspace_spelling_is_the_textbook_schedule():
    for num_train in (20, 100):
        schedule = cosine_schedule(num_train)
        expected = reference.alphas_cumprod(num_train)
        np.testing.assert_allclose(schedule.alphas_cumprod, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("num_train", "steps", "times"),
    [
        (20, 8, [14, 12, 10, 8, 6, 4, 2, 0]),  # 20 // 8 = 2
        (20, 4, [15, 10, 5, 0]),
        (100, 8, [84, 72, 60, 48, 36, 24, 12, 0]),
        (20, 1, [0]),
    ],
)
def test_ddim_times(num_train, steps, times):
    schedule = cosine_schedule(num_train)
    ddim = ddim_schedule(schedule, steps)
    assert ddim.t.tolist() == times and ddim.t.dtype == np.int32
    assert ddim.alpha.tolist() == schedule.alphas_cumprod[times].tolist()
    assert ddim.alpha_prev.tolist() == [*ddim.alpha[1:].tolist(), 1.0]
    assert ddim.num_steps == steps


@pytest.mark.parametrize("steps", [0, -1, 21])
def test_ddim_steps_out_of_range(steps):
    with pytest.raises(UserError, match="expected 1 to 20"):
        ddim_schedule(cosine_schedule(20), steps)


def test_too_few_training_timesteps():
    with pytest.raises(UserError, match="at least 2"):
        cosine_schedule(1)
