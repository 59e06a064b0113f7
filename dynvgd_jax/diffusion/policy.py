"""A frozen diffusion policy and its folder on disk.

A policy folder holds `policy.json` (architecture, T, task, provenance, versions),
`weights/` (see `runs.checkpoint`) and DPPO's `normalization.npz`.
"""

import dataclasses
import functools
import importlib.metadata
import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dynvgd_jax.diffusion import sampler
from dynvgd_jax.diffusion.network import DiffusionMLP, param_shapes
from dynvgd_jax.diffusion.schedule import Schedule, cosine_schedule, ddim_schedule
from dynvgd_jax.envs.normalize import (
    Normalization,
    load_normalization,
    save_normalization,
)
from dynvgd_jax.errors import UserError
from dynvgd_jax.runs.checkpoint import restore_tree, save_tree

FORMAT_VERSION = 1
ASSETS = Path(__file__).resolve().parent.parent / "assets"
BUILTIN_PREFIX = "builtin:"
_DESCRIPTION = "policy.json"
_WEIGHTS = "weights"
_NORMALIZATION = "normalization.npz"
_NETWORK_FIELDS = tuple(
    f.name for f in dataclasses.fields(DiffusionMLP) if f.name not in ("name", "parent")
)
_VERSIONED = ("jax", "flax", "numpy", "orbax-checkpoint")


@dataclasses.dataclass(frozen=True)
class Policy:
    """Weights with everything needed to use them; observations are normalised."""

    network: DiffusionMLP
    params: Any  # Flax parameters, see `network.init_params`
    schedule: Schedule  # of training
    normalization: Normalization
    task: str
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)  # JSON values

    @property
    def obs_dim(self) -> int:
        return self.network.obs_dim

    @property
    def action_dim(self) -> int:
        return self.network.action_dim

    @property
    def chunk_len(self) -> int:
        return self.network.chunk_len

    @property
    def eps_fn(self) -> sampler.EpsFn:
        """The network with its weights bound, for the sampler."""
        return make_eps_fn(self.network, self.params)

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
        num_train = self.schedule.num_train_timesteps
        return _sample(self.network, num_train, ddim_steps, self.params, obs, noise)

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
    return lambda x_t, t, obs: network.apply({"params": params}, x_t, t, obs)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _sample(network, num_train_timesteps, ddim_steps, params, obs, noise):
    schedule = ddim_schedule(cosine_schedule(num_train_timesteps), ddim_steps)
    eps_fn = make_eps_fn(network, params)
    return sampler.ddim_decode(eps_fn, schedule, noise, obs)[0]


def save_policy(folder: str | Path, policy: Policy) -> None:
    """Writes `policy` to `folder`, which appears complete or not at all.

    Raises:
      UserError: `folder` exists already.
    """
    folder = Path(folder).absolute()
    if folder.exists():
        raise UserError(f"{folder} exists already; give a folder that does not")
    description = {
        "format_version": FORMAT_VERSION,
        "task": policy.task,
        "num_train_timesteps": policy.schedule.num_train_timesteps,
        "network": {name: getattr(policy.network, name) for name in _NETWORK_FIELDS},
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONED},
        "metadata": policy.metadata,
    }
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        save_tree(partial / _WEIGHTS, policy.params)
        save_normalization(partial / _NORMALIZATION, policy.normalization)
        text = json.dumps(description, indent=2) + "\n"
        (partial / _DESCRIPTION).write_text(text, encoding="utf-8")
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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
        network = DiffusionMLP(**description["network"])
        schedule = cosine_schedule(int(description["num_train_timesteps"]))
        task = str(description["task"])
        metadata = dict(description["metadata"])
        template = param_shapes(network)
    except (KeyError, TypeError, ValueError) as error:
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
    return Policy(network, params, schedule, normalization, task, metadata)


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
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); use another policy") from error
    if not isinstance(description, dict):
        raise UserError(f"{path} is damaged: no JSON object; use another policy")
    return description
