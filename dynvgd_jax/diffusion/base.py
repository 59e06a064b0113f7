"""The seam of the frozen policies: how noise becomes a chunk, step by step.

`x_k` is a noisy chunk before step k of K (k = 0 is the noisiest), `x0_hat` the step's
estimate of the clean chunk. A policy of another kind is another `Denoiser`; steering
knows nothing else of it, policy files and pre-training its `Kind`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxtyping import Float

from dynvgd_jax.diffusion.arrays import Array

# Predicts the noise: (x_t [B, Ta, Da], t [] int32, obs [B, Do]) -> eps_hat [B, Ta, Da]
EpsFn = Callable[[Array, Array, Array], Array]


class Denoiser(NamedTuple):
    """K deterministic steps from noise to a chunk, as pure functions."""

    num_steps: int  # K
    # policy parameters -> what the other functions take, computed once per decode
    prepare: Callable[[Any], Any]
    # (prepared, x_k [B, Ta, Da], k, obs [B, Do]) -> (x0_hat, residual), the residual
    # being whatever `advance` needs to go on from another estimate with the same noise
    estimate: Callable[[Any, Array, int, Array], tuple[Array, Any]]
    # (x0 [B, Ta, Da], residual, k) -> x_{k+1}; after the last step x0 itself
    advance: Callable[[Array, Any, int], Array]
    # (prepared, x_{k+1}, x0, k, obs) -> x_{k+1} of clean chunk x0, whose noise the
    # network predicts at the x_{k+1} given, as the published guided step does
    renoise: Callable[[Any, Array, Array, int, Array], Array]


class Spec(NamedTuple):
    """What a policy is apart from its weights and its scale; hashable.

    Functions that depend on it alone are compiled once for policies of other weights.
    """

    network: Any  # a module with obs_dim, action_dim, chunk_len, compared by value
    num_train_timesteps: int = 0  # T of a diffusion; 0 where there is no such number
    ft_denoising_steps: int = 0  # last steps by DPPO's fine-tuned network


class Kind(NamedTuple):
    """What tells one kind of policy from another, as pure functions."""

    # (spec, K) -> the decode; UserError where it cannot take K steps
    denoiser: Callable[[Spec, int], Denoiser]
    # (spec, params, key, obs [B, Do], actions [B, Ta, Da]) -> loss [] of pre-training
    loss: Callable[[Spec, Any, Array, Array, Array], Array]
    init: Callable[[Spec, Array], Any]  # (spec, key) -> fresh parameters
    describe: Callable[[Spec], dict[str, Any]]  # its part of policy.json, JSON values
    # the inverse, other entries left aside, every size checked before memory is taken;
    # KeyError, TypeError, ValueError or OverflowError where it describes none
    read: Callable[[Mapping[str, Any]], Spec]


def step(
    denoiser: Denoiser,
    prepared: Any,
    x_k: Float[Array, "b ta da"],
    k: int,
    obs: Float[Array, "b do"],
) -> Float[Array, "b ta da"]:
    """Returns `x_{k+1}`: one plain step."""
    return denoiser.advance(*denoiser.estimate(prepared, x_k, k, obs), k)


def decode(
    denoiser: Denoiser,
    prepared: Any,
    x: Float[Array, "b ta da"],
    obs: Float[Array, "b do"],
    *,
    first_k: int = 0,
    end_k: int | None = None,
) -> Float[Array, "b ta da"]:
    """Returns x after the plain steps `first_k .. end_k - 1`.

    Args:
      denoiser: of the policy.
      prepared: from `denoiser.prepare`.
      x: start noise, or for `first_k > 0` what the earlier steps left.
      obs: normalised observations.
      first_k: first step to run.
      end_k: one past the last step to run; None is K.

    Raises:
      ValueError: these are no range of its steps.
    """
    for k in step_range(denoiser, first_k, end_k):
        x = step(denoiser, prepared, x, k, obs)
    return x


def step_range(denoiser: Denoiser, first_k: int, end_k: int | None) -> range:
    """Returns the steps `first_k .. end_k - 1`; ValueError where there are no such."""
    end_k = denoiser.num_steps if end_k is None else end_k
    if not 0 <= first_k <= end_k <= denoiser.num_steps:
        raise ValueError(
            f"found steps {first_k} to {end_k}, expected a range inside "
            f"0..{denoiser.num_steps}"
        )
    return range(first_k, end_k)


def sample(
    denoiser: Denoiser,
    params: Any,
    noise: Float[Array, "b ta da"],
    obs: Float[Array, "b do"],
) -> Float[Array, "b ta da"]:
    """Returns the chunks `[B, Ta, Da]` of the policy alone, from exactly `noise`."""
    return decode(denoiser, denoiser.prepare(params), noise, obs)
