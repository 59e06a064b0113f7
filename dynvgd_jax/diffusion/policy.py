"""A frozen policy of any kind: weights with everything needed to use them."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.normalize import Normalization
from dynvgd_jax.core.precision import with_precision
from dynvgd_jax.diffusion import base
from dynvgd_jax.diffusion.arrays import Array
from dynvgd_jax.diffusion.base import Denoiser, Spec
from dynvgd_jax.diffusion.ddpm import ddpm_decode
from dynvgd_jax.diffusion.diffusion_mlp import decode_eps_fn, schedule_of
from dynvgd_jax.diffusion.kinds import FIRST_KIND, KINDS
from dynvgd_jax.diffusion.schedule import Schedule


@dataclasses.dataclass(frozen=True)
class Policy:
    """Weights with everything needed to use them; observations are normalised."""

    network: Any  # of its kind: a DiffusionMLP, unless it is a kind of your own
    # Flax parameters; where ft_denoising_steps > 0 two such trees, {"base": ...,
    # "fine_tuned": ...}.
    params: Any
    num_train_timesteps: int  # T; 0 of a flow
    normalization: Normalization
    task: str
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)  # JSON values
    ft_denoising_steps: int = 0  # last denoising steps by the fine-tuned network
    kind: str = FIRST_KIND  # a name of kinds.KINDS

    @property
    def spec(self) -> Spec:
        """All of it but its weights and its scale."""
        return Spec(self.network, self.num_train_timesteps, self.ft_denoising_steps)

    @functools.cached_property
    def schedule(self) -> Schedule:
        """The noise schedule of training; UserError where T is below 2."""
        return schedule_of(self.spec)

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
          UserError: the policy does not take K steps: of a diffusion it is not in
            1 .. T, or the fine-tuned network's steps are more.
        """
        return KINDS[self.kind].denoiser(self.spec, ddim_steps)

    def sample(
        self,
        obs: Array,
        noise: Array,
        ddim_steps: int = 8,
        *,
        precision: str = "float32",
    ) -> Float[Array, "b ta da"]:
        """Returns normalised action chunks `[B, Ta, Da]`, decoded from exactly `noise`.

        Args:
          obs: normalised observations `[B, Do]`.
          noise: start of the decode `[B, Ta, Da]`.
          ddim_steps: K, of a diffusion 1 to T.
          precision: of matrix products, a key of `core.precision.PRECISIONS`.

        Raises:
          ValueError: a shape is wrong.
          UserError: see `denoiser`.
        """
        obs, noise = self._checked(obs, noise)
        statics = (KINDS[self.kind], self.spec, precision, ddim_steps)
        return _sample(*statics, self.params, obs, noise)

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
          UserError: it is no diffusion.
        """
        self.require_kind(FIRST_KIND)
        obs, noise = self._checked(obs, noise)
        return _sample_ddpm(self.spec, precision, self.params, obs, noise, key)

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

    def require_kind(self, kind: str) -> None:
        """Raises UserError where the policy is of another kind than a run expects."""
        if self.kind != kind:
            raise UserError(
                f"found a base policy of kind {self.kind!r}, expected {kind!r}; set "
                f"base_policy to one of that kind, or policy_kind to {self.kind!r} "
                "where the rest of the configuration is meant for it"
            )

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


# At module level: policies that differ in weights only share the compilation.
@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _sample(kind, spec, precision, ddim_steps, params, obs, noise):
    decode = functools.partial(base.sample, kind.denoiser(spec, ddim_steps))
    return with_precision(decode, precision)(params, noise, obs)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sample_ddpm(spec, precision, params, obs, noise, key):
    def decode(params, obs, noise, key):
        # DPPO counts fine-tuned DDPM steps as timesteps
        eps_fn = decode_eps_fn(spec.network, params, spec.ft_denoising_steps)
        return ddpm_decode(eps_fn, schedule_of(spec), key, noise, obs)

    return with_precision(decode, precision)(params, obs, noise, key)
