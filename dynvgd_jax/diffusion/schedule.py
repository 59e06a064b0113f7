"""Noise schedules: the cosine schedule of training and its DDIM subsequence.

Notation of the whole package: `t` is a training timestep (0 .. T-1, large is
noisy), `k` an index into the DDIM steps (0 is the noisiest), and
`x_t = sqrt(alphas_cumprod[t]) * x0 + sqrt(1 - alphas_cumprod[t]) * eps`.
All fields are host constants, so that a compiled decode folds them.
"""

from typing import NamedTuple

import numpy as np

from dynvgd_jax.core.errors import UserError

COSINE_OFFSET = 0.008
MAX_BETA = 0.999


class Schedule(NamedTuple):
    """The forward process and the moments of its reverse (DDPM) step.

    Hashable by its values, so that it can be a static argument of a compiled function.
    """

    betas: np.ndarray  # [T] float32, variance added at step t
    alphas_cumprod: np.ndarray  # [T] float32, share of the signal left at t
    posterior_x0_coef: np.ndarray  # [T] float32, of x0 in E[x_{t-1} | x_t, x0]
    posterior_xt_coef: np.ndarray  # [T] float32, of x_t in E[x_{t-1} | x_t, x0]
    posterior_variance: np.ndarray  # [T] float32, Var[x_{t-1} | x_t, x0]

    @property
    def num_train_timesteps(self) -> int:
        return len(self.betas)

    def __hash__(self) -> int:
        return hash(self.betas.tobytes())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and all(
            np.array_equal(mine, its) for mine, its in zip(self, other, strict=True)
        )

    def __ne__(self, other: object) -> bool:
        return not self == other  # a tuple has its own


class DDIMSchedule(NamedTuple):
    """K deterministic steps through a training schedule, noisiest first."""

    t: np.ndarray  # [K] int32, training timestep of step k
    alpha: np.ndarray  # [K] float32, alphas_cumprod before step k
    alpha_prev: np.ndarray  # [K] float32, alphas_cumprod after step k; the last is 1

    @property
    def num_steps(self) -> int:
        return len(self.t)


def cosine_schedule(num_train_timesteps: int) -> Schedule:
    """The cosine schedule (Nichol and Dhariwal 2021) in DPPO's spelling.

    Computed in float64 and cast once. DPPO takes `n = T + 1` points
    `x = linspace(0, n, n)` and divides by `n`, which is i / T up to rounding; the
    spelling is kept so that the last bits agree.

    Args:
      num_train_timesteps: T, at least 2.

    Raises:
      UserError: T is below 2.
    """
    if num_train_timesteps < 2:
        raise UserError(
            f"found {num_train_timesteps} training timesteps, expected at least 2; "
            "set the number that the policy was trained with"
        )
    n = num_train_timesteps + 1
    x = np.linspace(0, n, n)
    angle = (x / n + COSINE_OFFSET) / (1 + COSINE_OFFSET) * np.pi * 0.5
    signal = np.cos(angle) ** 2
    signal = signal / signal[0]
    betas = np.clip(1 - signal[1:] / signal[:-1], 0, MAX_BETA)
    alphas_cumprod = np.cumprod(1 - betas)
    previous = np.append(1.0, alphas_cumprod[:-1])
    fields = (
        betas,
        alphas_cumprod,
        betas * np.sqrt(previous) / (1 - alphas_cumprod),
        (1 - previous) * np.sqrt(1 - betas) / (1 - alphas_cumprod),
        betas * (1 - previous) / (1 - alphas_cumprod),
    )
    return Schedule(*(field.astype(np.float32) for field in fields))


def ddim_schedule(schedule: Schedule, ddim_steps: int) -> DDIMSchedule:
    """Evenly spaced timesteps 0, r, 2r, .. with r = T // K, reversed (DPPO).

    The noisiest of them lies below T - 1 in general (T = 20, K = 8 starts at 14):
    so did the published runs.

    Args:
      schedule: of training.
      ddim_steps: K, from 1 to T.

    Raises:
      UserError: K is out of range.
    """
    num_train = schedule.num_train_timesteps
    if not 1 <= ddim_steps <= num_train:
        raise UserError(
            f"found ddim_steps {ddim_steps}, expected 1 to {num_train}, the training "
            "timesteps of this policy; choose a value in that range"
        )
    t = np.flip(np.arange(ddim_steps) * (num_train // ddim_steps)).astype(np.int32)
    alpha = schedule.alphas_cumprod[t]
    alpha_prev = np.append(alpha[1:], np.float32(1.0))
    return DDIMSchedule(t=t, alpha=alpha, alpha_prev=alpha_prev)
