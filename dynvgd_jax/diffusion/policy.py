"""A frozen diffusion policy and its folder on disk.

A policy folder holds `policy.json` (architecture, T, task, provenance, versions),
`weights/` (see `runs.checkpoint`) and DPPO's `normalization.npz`.

A policy fine-tuned by DPPO has two networks of one architecture: the base for the early
and the fine-tuned one for the last denoising steps.
"""

import dataclasses
import functools
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.normalize import (
    Normalization,
    load_normalization,
    save_normalization,
)
from dynvgd_jax.core.untrusted import load_json
from dynvgd_jax.diffusion import sampler
from dynvgd_jax.diffusion.frozen import freeze
from dynvgd_jax.diffusion.network import DiffusionMLP, param_shapes
from dynvgd_jax.diffusion.schedule import (
    DDIMSchedule,
    Schedule,
    cosine_schedule,
    ddim_schedule,
)
from dynvgd_jax.runs.checkpoint import restore_tree, save_tree
from dynvgd_jax.runs.durable import new_folder

FORMAT_VERSION = 1
ASSETS = Path(__file__).resolve().parent.parent / "assets"
BUILTIN_PREFIX = "builtin:"
# Far above any policy; what a damaged or hostile file may ask for.
MAX_SIZE, MAX_LAYERS, MAX_TRAIN_TIMESTEPS = 65536, 100, 100_000
_DESCRIPTION = "policy.json"
_WEIGHTS = "weights"
_NORMALIZATION = "normalization.npz"
_FT_STEPS = "ft_denoising_steps"
# The two trees of a fine-tuned policy's parameters.
BASE, FINE_TUNED = "base", "fine_tuned"
_NETWORK_FIELDS = tuple(
    f.name for f in dataclasses.fields(DiffusionMLP) if f.name not in ("name", "parent")
)
_VERSIONED = ("jax", "flax", "numpy", "orbax-checkpoint")


@dataclasses.dataclass(frozen=True)
class Policy:
    """Weights with everything needed to use them; observations are normalised."""

    network: DiffusionMLP
    # Flax parameters, see `network.init_params`; where ft_denoising_steps > 0 two such
    # trees, {"base": ..., "fine_tuned": ...}.
    params: Any
    schedule: Schedule  # of training
    normalization: Normalization
    task: str
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)  # JSON values
    ft_denoising_steps: int = 0  # last denoising steps by the fine-tuned network

    @property
    def obs_dim(self) -> int:
        return self.network.obs_dim

    @property
    def action_dim(self) -> int:
        return self.network.action_dim

    @property
    def chunk_len(self) -> int:
        return self.network.chunk_len

    def eps_fn_maker(
        self, schedule: DDIMSchedule | None
    ) -> Callable[[Any], sampler.EpsFn]:
        """Returns `params -> eps_fn` for decodes by `schedule`; None is DDPM.

        Raises:
          UserError: the fine-tuned network's steps are more than `schedule` has.
        """
        below = _fine_tuned_below_t(self.ft_denoising_steps, schedule)
        return functools.partial(decode_eps_fn, self.network, fine_tuned_below_t=below)

    def sample(
        self,
        obs: Float[Array, "b do"],
        noise: Float[Array, "b ta da"],
        ddim_steps: int = 8,
    ) -> Float[Array, "b ta da"]:
        """Returns normalised action chunks `[B, Ta, Da]`: DDIM from exactly `noise`.

        Raises:
          ValueError: a shape is wrong.
          UserError: `ddim_steps` is not in 1 .. T.
        """
        obs, noise = self._checked(obs, noise)
        num_train = self.schedule.num_train_timesteps
        statics = (self.network, num_train, self.ft_denoising_steps, ddim_steps)
        return _sample(*statics, self.params, obs, noise)

    def sample_ddpm(
        self, obs: Float[Array, "b do"], noise: Float[Array, "b ta da"], key: Array
    ) -> Float[Array, "b ta da"]:
        """Returns action chunks `[B, Ta, Da]`: all T steps of DDPM, noise from `key`.

        Raises:
          ValueError: a shape is wrong.
        """
        obs, noise = self._checked(obs, noise)
        num_train = self.schedule.num_train_timesteps
        statics = (self.network, num_train, self.ft_denoising_steps)
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


def make_eps_fn(network: DiffusionMLP, params: Any) -> sampler.EpsFn:
    """Binds `params`; the result takes `(x_t, t, obs)` with t `[]` or `[B]`."""

    def eps_fn(x_t, t, obs):
        return network.apply({"params": params}, x_t, t, obs)

    return eps_fn


def decode_eps_fn(
    network: DiffusionMLP, params: Any, fine_tuned_below_t: int = 0
) -> sampler.EpsFn:
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


def _param_template(network: DiffusionMLP, ft_steps: int) -> Any:
    shapes = param_shapes(network)
    return {BASE: shapes, FINE_TUNED: shapes} if ft_steps else shapes


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _sample(network, num_train_timesteps, ft_steps, ddim_steps, params, obs, noise):
    schedule = ddim_schedule(cosine_schedule(num_train_timesteps), ddim_steps)
    below = _fine_tuned_below_t(ft_steps, schedule)
    eps_fn = decode_eps_fn(network, params, below)
    return sampler.ddim_decode(eps_fn, schedule, noise, obs)[0]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _sample_ddpm(network, num_train_timesteps, ft_steps, params, obs, noise, key):
    eps_fn = decode_eps_fn(network, params, _fine_tuned_below_t(ft_steps, None))
    schedule = cosine_schedule(num_train_timesteps)
    return sampler.ddpm_decode(eps_fn, schedule, key, noise, obs)


def save_policy(folder: str | Path, policy: Policy) -> None:
    """Writes `policy` to `folder`, which appears complete or not at all.

    Raises:
      UserError: `folder` exists already, or cannot be written.
    """
    description = {
        "format_version": FORMAT_VERSION,
        "task": policy.task,
        "num_train_timesteps": policy.schedule.num_train_timesteps,
        "network": {name: getattr(policy.network, name) for name in _NETWORK_FIELDS},
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONED},
        "metadata": policy.metadata,
    }
    if policy.ft_denoising_steps:
        description[_FT_STEPS] = policy.ft_denoising_steps
    try:
        with new_folder(folder) as partial:
            save_tree(partial / _WEIGHTS, policy.params)
            save_normalization(partial / _NORMALIZATION, policy.normalization)
            text = json.dumps(description, indent=2) + "\n"
            (partial / _DESCRIPTION).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write the policy {folder}: {error}") from error


def load_policy(source: str | Path) -> Policy:
    """Returns the policy of a folder, or a packaged one: `builtin:<task>`.

    Raises:
      UserError: there is no such policy, a file of it is missing or damaged, or its
        parts do not fit each other.
    """
    folder = _locate(str(source))
    description = _read_description(folder / _DESCRIPTION)
    try:
        if description["format_version"] != FORMAT_VERSION:
            raise UserError(
                f"{folder / _DESCRIPTION} has format "
                f"{description['format_version']!r}, expected {FORMAT_VERSION}; "
                "convert or train the policy again with this version"
            )
        network = _build_network(description["network"])
        num_train = description["num_train_timesteps"]
        if type(num_train) is not int or num_train > MAX_TRAIN_TIMESTEPS:
            raise ValueError(f"num_train_timesteps {num_train!r}")
        schedule = cosine_schedule(num_train)
        task = str(description["task"])
        metadata = dict(description["metadata"])
        ft_steps = int(description.get(_FT_STEPS, 0))  # only fine-tuned ones have it
        if not 0 <= ft_steps <= num_train:
            raise ValueError(f"{_FT_STEPS} {ft_steps}")
        template = _param_template(network, ft_steps)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{folder / _DESCRIPTION} does not describe a policy ({error!r}); "
            "convert or train the policy again"
        ) from error
    params = restore_tree(folder / _WEIGHTS, template)
    normalization = load_normalization(folder / _NORMALIZATION)
    sizes = (len(normalization.obs_min), len(normalization.action_min))
    if sizes != (network.obs_dim, network.action_dim):
        raise UserError(
            f"{folder / _NORMALIZATION} has {sizes} observation and action entries, "
            f"expected {(network.obs_dim, network.action_dim)} as in {_DESCRIPTION}; "
            "put the file of this policy's own data set there"
        )
    parts = (network, params, schedule, normalization, task, metadata, ft_steps)
    return Policy(*parts)


def _build_network(fields: dict[str, Any]) -> DiffusionMLP:
    """Returns the module of a description; sizes are checked before any memory is."""
    if set(fields) != set(_NETWORK_FIELDS):
        wrong = sorted(set(fields) ^ set(_NETWORK_FIELDS))
        raise ValueError(f"network fields {wrong} missing or unknown")
    network = DiffusionMLP(**fields)
    sizes = (network.obs_dim, network.action_dim, network.chunk_len, network.time_dim)
    sizes += network.hidden_dims + network.cond_dims
    if not all(type(size) is int and 1 <= size <= MAX_SIZE for size in sizes):
        raise ValueError(f"sizes {sizes}, expected numbers from 1 to {MAX_SIZE}")
    if len(sizes) > MAX_LAYERS:
        raise ValueError(f"{len(sizes)} sizes, expected at most {MAX_LAYERS}")
    if type(network.residual) is not bool or type(network.layer_norm) is not bool:
        raise ValueError("residual and layer_norm, expected true or false")
    return network


def _locate(source: str) -> Path:
    if not source.startswith(BUILTIN_PREFIX):
        folder = Path(source)
        if not folder.is_dir():
            raise UserError(
                f"found no policy folder at {source}; give a folder that holds "
                f"{_DESCRIPTION}, or {BUILTIN_PREFIX}<task>"
            )
        return folder
    name = source.removeprefix(BUILTIN_PREFIX)
    available = sorted(path.parent.name for path in ASSETS.glob(f"*/{_DESCRIPTION}"))
    if name not in available:
        raise UserError(
            f"found no built-in policy {name!r}, expected one of "
            f"{', '.join(available) or 'none'}; train one with "
            f"configs/{name}_pretrain.py or give a policy folder"
        )
    return ASSETS / name


def _read_description(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(
            f"{path.parent} is no complete policy folder: {_DESCRIPTION} is missing; "
            f"expected {_DESCRIPTION}, {_WEIGHTS}/ and {_NORMALIZATION}"
        )
    return load_json(path)
