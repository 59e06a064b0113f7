"""Acting from a learned start noise, and the first rollouts from a random one."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import anything, number, one_of
from dynvgd_jax.core.types import PyTree
from dynvgd_jax.diffusion.base import sample
from dynvgd_jax.steering.base import ActInputs, Decision, Setting
from dynvgd_jax.steering.noise import make_explore_noise, start_noise, uniform_noise
from dynvgd_jax.steering.noise_actor import NoiseActor

# Start noises of the first rollouts: "uniform" within the actor's bounds, or "explore",
# those of every other method, clipped to the bounds where the critics judge noises.
FIRST_NOISES = ("uniform", "explore")

FIELDS = {
    "dsrl.noise_magnitude": number(1e-6, 1e6),
    "dsrl.first_noise": one_of(FIRST_NOISES),
    "dsrl.deterministic_eval": anything,
}

# Name under which a start noise [Ta, Da] is stored beside its transition.
NOISE = "noise"


def make_noise_act(setting: Setting, actor: NoiseActor) -> Callable[..., Decision]:
    """Returns `(actor params, policy params, inputs) -> Decision`.

    The actor samples with `inputs.noise` `[B, Ta, Da]`, standard normal, else with a
    draw that depends on episode and chunk alone, and takes its mode without a key, or
    in an evaluation with `dsrl.deterministic_eval`. The noise is among the extras.
    """
    config, chunk_shape = setting.config, setting.chunk_shape
    magnitude = config.dsrl.noise_magnitude

    def draw(inputs: ActInputs) -> jax.Array:
        shape = (len(inputs.obs), *chunk_shape)
        if inputs.noise is not None:
            if inputs.noise.shape != shape:
                raise UserError(
                    f"method {config.method!r} acts from one draw an observation, "
                    f"found noise {inputs.noise.shape}, expected {shape}"
                )
            return inputs.noise
        if inputs.key is None:
            return jnp.zeros(shape)
        of_episode = (inputs.key, inputs.seeds, inputs.chunk_index)
        drawn = start_noise("randn", *of_episode, chunk_shape)
        if config.dsrl.deterministic_eval:
            drawn = jnp.where(inputs.evaluating, 0.0, drawn)
        return drawn

    def act(actor_params: PyTree, params: PyTree, inputs: ActInputs) -> Decision:
        flat = draw(inputs).reshape(-1, setting.flat_dim)
        unit, _ = actor.sample(actor_params, inputs.obs, flat)
        noise = magnitude * unit.reshape(-1, *chunk_shape)
        chunk = sample(setting.denoiser, params, noise, inputs.obs)
        norm = jnp.sqrt(jnp.sum(jnp.square(noise), axis=(1, 2)))
        return Decision(chunk, {NOISE: noise}, {"guide/noise_norm": jnp.mean(norm)})

    return act


def make_first_rollouts(setting: Setting, *, clipped: bool) -> Callable[..., Decision]:
    """Returns `Method.explore` of `dsrl.first_noise`, the noise among the extras.

    Args:
      setting: policy, sizes and configuration.
      clipped: keep the noise within the actor's bounds.
    """
    bound = setting.config.dsrl.noise_magnitude
    if setting.config.dsrl.first_noise == "uniform":

        def draw(inputs: ActInputs) -> jax.Array:
            of_episode = (inputs.key, inputs.seeds, inputs.chunk_index)
            return uniform_noise(bound, *of_episode, setting.chunk_shape)

    else:
        held = make_explore_noise(setting)

        def draw(inputs: ActInputs) -> jax.Array:
            return jnp.clip(held(inputs), -bound, bound) if clipped else held(inputs)

    def explore(params: PyTree, inputs: ActInputs) -> Decision:
        noise = draw(inputs)
        chunk = sample(setting.denoiser, params, noise, inputs.obs)
        return Decision(chunk, {NOISE: noise}, {})

    return explore


def without_extras(decide: Callable[..., Decision]) -> Callable[..., Decision]:
    """Returns `decide` of a method that stores no noise."""
    return lambda *inputs: decide(*inputs)._replace(extras={})
