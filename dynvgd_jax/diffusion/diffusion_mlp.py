"""The kind "diffusion_mlp": DPPO's network predicts noise, DDIM decodes.

A policy fine-tuned by DPPO has two networks of one architecture: the base for the early
and the fine-tuned one for the last denoising steps.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.diffusion.arrays import Array
from dynvgd_jax.diffusion.base import Denoiser, EpsFn, Kind, Spec
from dynvgd_jax.diffusion.ddim import make_ddim
from dynvgd_jax.diffusion.ddpm import denoising_loss
from dynvgd_jax.diffusion.frozen import freeze
from dynvgd_jax.diffusion.network import (
    DiffusionMLP,
    bind,
    init_params,
    network_fields,
    read_network,
)
from dynvgd_jax.diffusion.schedule import (
    DDIMSchedule,
    Schedule,
    cosine_schedule,
    ddim_schedule,
)

# The two trees of a fine-tuned policy's parameters.
BASE, FINE_TUNED = "base", "fine_tuned"
# Far above any policy; what a damaged or hostile file may ask for.
MAX_TRAIN_TIMESTEPS = 100_000
_T, _FT_STEPS = "num_train_timesteps", "ft_denoising_steps"


def decode_eps_fn(
    network: DiffusionMLP, params: Any, fine_tuned_below_t: int = 0
) -> EpsFn:
    """Binds `params` for a decode, folded; the result takes `(x_t, t, obs)`, t `[]`.

    With `fine_tuned_below_t > 0`, `params` holds two trees, and steps with t below that
    number are the fine-tuned network's.
    """
    if not fine_tuned_below_t:
        return bind(*freeze(network, params))
    late = bind(*freeze(network, params[FINE_TUNED]))
    early = bind(*freeze(network, params[BASE]))

    def eps_fn(x_t, t, obs):
        return jax.lax.cond(t < fine_tuned_below_t, late, early, x_t, t, obs)

    return eps_fn


def _fine_tuned_below_t(ft_steps: int, schedule: DDIMSchedule) -> int:
    """DPPO counts DDIM steps from the end, DDPM steps as timesteps."""
    if ft_steps == 0:
        return 0
    if ft_steps > schedule.num_steps:
        raise UserError(
            f"the fine-tuned network covers the last {ft_steps} denoising steps, found "
            f"ddim_steps = {schedule.num_steps}; give at least {ft_steps}, or convert "
            "the policy again with the --ft_denoising_steps that these are fine-tuned "
            "for"
        )
    return int(schedule.t[-ft_steps]) + 1


def schedule_of(spec: Spec) -> Schedule:
    """Returns the noise schedule of training; UserError where T is below 2."""
    return cosine_schedule(spec.num_train_timesteps)


def _denoiser(spec: Spec, num_steps: int) -> Denoiser:
    steps = ddim_schedule(schedule_of(spec), num_steps)
    below = _fine_tuned_below_t(spec.ft_denoising_steps, steps)
    make = functools.partial(decode_eps_fn, spec.network, fine_tuned_below_t=below)
    return make_ddim(make, steps)


def _loss(spec: Spec, params: Any, key: Array, obs: Array, actions: Array) -> Array:
    eps_fn = bind(spec.network, params)
    return denoising_loss(eps_fn, schedule_of(spec), key, obs, actions)


def _init(spec: Spec, key: Array) -> Any:
    params = init_params(spec.network, key)
    return {BASE: params, FINE_TUNED: params} if spec.ft_denoising_steps else params


def _describe(spec: Spec) -> dict[str, Any]:
    described = {_T: spec.num_train_timesteps, "network": network_fields(spec.network)}
    if spec.ft_denoising_steps:
        described[_FT_STEPS] = spec.ft_denoising_steps
    return described


def _read(description: Mapping[str, Any]) -> Spec:
    network = read_network(description["network"])
    num_train = description[_T]
    if type(num_train) is not int or not 2 <= num_train <= MAX_TRAIN_TIMESTEPS:
        raise ValueError(
            f"{_T} {num_train!r}, expected a number that is at least 2 and at most "
            f"{MAX_TRAIN_TIMESTEPS}"
        )
    ft_steps = int(description.get(_FT_STEPS, 0))  # only fine-tuned ones have it
    if not 0 <= ft_steps <= num_train:
        raise ValueError(f"{_FT_STEPS} {ft_steps}")
    return Spec(network, num_train, ft_steps)


DIFFUSION_MLP = Kind(_denoiser, _loss, _init, _describe, _read)
