"""A frozen diffusion policy: weights with everything needed to use them.

A policy fine-tuned by DPPO has two networks of one architecture: the base for the early
and the fine-tuned one for the last denoising steps.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Float

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.normalize import Normalization
from dynvgd_jax.core.precision import with_precision
from dynvgd_jax.diffusion import base
from dynvgd_jax.diffusion.arrays import Array
from dynvgd_jax.diffusion.base import Denoiser, EpsFn
from dynvgd_jax.diffusion.ddim import make_ddim
from dynvgd_jax.diffusion.ddpm import ddpm_decode
from dynvgd_jax.diffusion.frozen import freeze
from dynvgd_jax.diffusion.network import DiffusionMLP, param_shapes
from dynvgd_jax.diffusion.schedule import (
    DDIMSchedule,
    Schedule,
    cosine_schedule,
    ddim_schedule,
)

# The two trees of a fine-tuned policy's parameters.
BASE, FINE_TUNED = "base", "fine_tuned"


@dataclasses.dataclass(frozen=True)
class Policy:
    """Weights with everything needed to use them; observations are normalised."""

    kind: ClassVar[str] = "diffusion_mlp"  # see policy_files.KINDS

    network: DiffusionMLP
    # Flax parameters, see `network.init_params`; where ft_denoising_steps > 0 two such
    # trees, {"base": ..., "fine_tuned": ...}.
    params: Any
    num_train_timesteps: int  # T
    normalization: Normalization
    task: str
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)  # JSON values
    ft_denoising_steps: int = 0  # last denoising steps by the fine-tuned network

    @functools.cached_property
    def schedule(self) -> Schedule:
        """The noise schedule of training; UserError where T is below 2."""
        return cosine_schedule(self.num_train_timesteps)

    @property
    def obs_dim(self) -> int:
        return self.network.obs_dim

    @property
    def action_dim(self) -> int:
        return self.network.action_dim

    @property
    def chunk_len(self) -> int:
        return self.network.chunk_len

    def denoiser(self, ddim_steps: int) -> Denoiser:
        """Returns the decode of K = `ddim_steps` steps, see `base.Denoiser`.

        Raises:
          UserError: K is not in 1 .. T, or the fine-tuned network's steps are more.
        """
        statics = (self.network, self.schedule, self.ft_denoising_steps, ddim_steps)
        return make_denoiser(*statics)

    def sample(
        self,
        obs: Array,
        noise: Array,
        ddim_steps: int = 8,
        *,
        precision: str = "float32",
    ) -> Float[Array, "b ta da"]:
        """Returns normalised action chunks `[B, Ta, Da]`: DDIM from exactly `noise`.

        Args:
          obs: normalised observations `[B, Do]`.
          noise: start of the decode `[B, Ta, Da]`.
          ddim_steps: K, 1 to T.
          precision: of matrix products, a key of `core.precision.PRECISIONS`.

        Raises:
          ValueError: a shape is wrong.
          UserError: `ddim_steps` is not in 1 .. T.
        """
        obs, noise = self._checked(obs, noise)
        statics = (self.network, self.schedule, self.ft_denoising_steps, precision)
        return _sample(*statics, ddim_steps, self.params, obs, noise)

    def sample_ddpm(
        self,
        obs: Array,
        noise: Array,
        key: Array,
        *,
        precision: str = "float32",
    ) -> Float[Array, "b ta da"]:
        """Returns action chunks `[B, Ta, Da]`: all T steps of DDPM, noise from `key`.

        Arguments as `sample`'s.

        Raises:
          ValueError: a shape is wrong.
        """
        obs, noise = self._checked(obs, noise)
        statics = (self.network, self.schedule, self.ft_denoising_steps, precision)
        return _sample_ddpm(*statics, self.params, obs, noise, key)

    def _checked(self, obs, noise) -> tuple[Array, Array]:
        obs = jnp.asarray(obs, jnp.float32)
        noise = jnp.asarray(noise, jnp.float32)
        expected = (self.chunk_len, self.action_dim)
        if (
            obs.ndim != 2
            or obs.shape[1] != self.obs_dim
            or noise.shape != (len(obs), *expected)
        ):
            raise ValueError(
                f"found obs {obs.shape} and noise {noise.shape}, expected "
                f"(B, {self.obs_dim}) and (B, {expected[0]}, {expected[1]})"
            )
        return obs, noise

    def require_task(self, task: str) -> None:
        """Raises UserError where the policy was made for another task.

        Sizes do not tell: those of Can and Square are equal.
        """
        if self.task != task:
            raise UserError(
                f"found a base policy for task {self.task!r}, expected one for "
                f"{task!r}; set base_policy to a policy of this task"
            )

    def require_fit(self, obs_dim: int, action_dim: int, chunk_len: int) -> None:
        """Raises UserError where the policy's sizes are not those of an environment."""
        found = (self.obs_dim, self.action_dim, self.chunk_len)
        expected = (obs_dim, action_dim, chunk_len)
        if found != expected:
            raise UserError(
                f"found a base policy for task {self.task!r} with (obs_dim, "
                f"action_dim, chunk_len) = {found}, expected {expected}; "
                "set base_policy to a policy of this task"
            )


def make_eps_fn(network: DiffusionMLP, params: Any) -> EpsFn:
    """Binds `params`; the result takes `(x_t, t, obs)` with t `[]` or `[B]`."""

    def eps_fn(x_t, t, obs):
        return network.apply({"params": params}, x_t, t, obs)

    return eps_fn


def decode_eps_fn(
    network: DiffusionMLP, params: Any, fine_tuned_below_t: int = 0
) -> EpsFn:
    """Binds `params` for a decode, folded; the result takes `(x_t, t, obs)`, t `[]`.

    With `fine_tuned_below_t > 0`, `params` holds two trees, and steps with t below that
    number are the fine-tuned network's.
    """
    if not fine_tuned_below_t:
        return make_eps_fn(*freeze(network, params))
    late = make_eps_fn(*freeze(network, params[FINE_TUNED]))
    early = make_eps_fn(*freeze(network, params[BASE]))

    def eps_fn(x_t, t, obs):
        return jax.lax.cond(t < fine_tuned_below_t, late, early, x_t, t, obs)

    return eps_fn


def _fine_tuned_below_t(ft_steps: int, schedule: DDIMSchedule | None) -> int:
    """DPPO counts DDIM steps from the end, DDPM steps as timesteps."""
    if ft_steps == 0 or schedule is None:
        return ft_steps
    if ft_steps > schedule.num_steps:
        raise UserError(
            f"the fine-tuned network covers the last {ft_steps} denoising steps, found "
            f"ddim_steps = {schedule.num_steps}; give at least {ft_steps}, or convert "
            "the policy again with the --ft_denoising_steps that these are fine-tuned "
            "for"
        )
    return int(schedule.t[-ft_steps]) + 1


def param_template(network: DiffusionMLP, ft_denoising_steps: int) -> Any:
    """Returns the tree of a policy's parameters as shapes and dtypes."""
    shapes = param_shapes(network)
    return {BASE: shapes, FINE_TUNED: shapes} if ft_denoising_steps else shapes


def make_denoiser(
    network: DiffusionMLP, schedule: Schedule, ft_denoising_steps: int, ddim_steps: int
) -> Denoiser:
    """Returns the DDIM decode of a network; see `Policy.denoiser`."""
    steps = ddim_schedule(schedule, ddim_steps)
    below = _fine_tuned_below_t(ft_denoising_steps, steps)
    make = functools.partial(decode_eps_fn, network, fine_tuned_below_t=below)
    return make_ddim(make, steps)


# At module level: policies that differ in weights only share the compilation.
@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _sample(network, schedule, ft_steps, precision, ddim_steps, params, obs, noise):
    denoiser = make_denoiser(network, schedule, ft_steps, ddim_steps)
    decode = functools.partial(base.sample, denoiser)
    return with_precision(decode, precision)(params, noise, obs)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _sample_ddpm(network, schedule, ft_steps, precision, params, obs, noise, key):
    below = _fine_tuned_below_t(ft_steps, None)

    def decode(params, obs, noise, key):
        eps_fn = decode_eps_fn(network, params, below)
        return ddpm_decode(eps_fn, schedule, key, noise, obs)

    return with_precision(decode, precision)(params, obs, noise, key)
