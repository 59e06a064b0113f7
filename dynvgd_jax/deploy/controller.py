"""A steered policy for a control loop: raw observations in, raw actions out.

Compiled when it is made, so that the first decision is as fast as the rest.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dynvgd_jax.core.fields import SEED_END
from dynvgd_jax.core.normalize import normalize_obs, unnormalize_action
from dynvgd_jax.core.observation import entry_name, flatten_observation
from dynvgd_jax.core.types import PyTree
from dynvgd_jax.deploy.export import write_program
from dynvgd_jax.diffusion.policy import Policy
from dynvgd_jax.steering.base import ActInputs, Method

# An observable by name -> its value, as robosuite gives it, or one raw vector [Do].
Observation = Mapping[str, np.ndarray] | np.ndarray


class Steered(NamedTuple):
    """A frozen policy with what steers it."""

    config: ConfigDict  # of the run, overrides applied
    policy: Policy
    method: Method
    learner: PyTree  # the method's state
    env_steps: int  # control steps of training behind it


class Controller:
    """Decides as the run's evaluations do, in the units of the environment.

    Noise depends on `noise_seed`, the episode's seed and the number of the chunk alone:
    the same observations get the same actions, in any process.

    Attributes:
      steered: what decides.
      noise_seed: see `__init__`.
      batch_size: B, robots or environments that are decided for at once.
      program: the compiled decision, `jax.stages.Compiled`.
    """

    def __init__(
        self, steered: Steered, batch_size: int = 1, noise_seed: int | None = None
    ):
        """Compiles; takes some seconds.

        Args:
          steered: what decides.
          batch_size: B, at least 1.
          noise_seed: 0 to 2**31 - 1; None is `eval.seed`, so that it acts as the run's
            evaluations do.

        Raises:
          ValueError: a number is out of its range.
        """
        if noise_seed is None:
            noise_seed = steered.config.eval.seed
        if batch_size < 1 or not 0 <= noise_seed <= SEED_END:
            raise ValueError(
                f"found batch_size {batch_size} and noise_seed {noise_seed}, expected "
                f"at least 1 and 0 to {SEED_END}"
            )
        self.steered, self.noise_seed = steered, noise_seed
        self.batch_size = batch_size
        arrays = jax.device_put((steered.learner, steered.policy.params))
        policy, rows = steered.policy, (batch_size,)
        inputs = (
            jax.ShapeDtypeStruct((batch_size, policy.obs_dim), jnp.float32),
            jax.ShapeDtypeStruct(rows, jnp.uint32),
            jax.ShapeDtypeStruct(rows, jnp.int32),
        )
        decide = make_decide(steered, noise_seed)
        self.program = jax.jit(decide).lower(*arrays, *inputs).compile()
        self._decide = functools.partial(self.program, *arrays)
        # the first call of a program takes longer than others
        self._decide(*(np.zeros(s.shape, s.dtype) for s in inputs))

    def chunk(self, obs: Observation, seed: int = 0, index: int = 0) -> np.ndarray:
        """Returns the raw actions `[Ta, Da]` or `[B, Ta, Da]` float64, not clipped.

        Args:
          obs: raw, of one environment its dictionary or `[Do]`, or `[B, Do]`.
          seed: of the episode, or one each `[B]`; 0 to 2**32 - 1.
          index: chunks that the episode has been given before, or one each `[B]`; 0
            to 2**31 - 1.

        Raises:
          ValueError: a shape is wrong, B is not `batch_size`, `seed` or `index` is out
            of its range, or an entry of the observation is not finite.
          UserError: the dictionary lacks an observable, or the task has no names.
        """
        policy = self.steered.policy
        if isinstance(obs, Mapping):
            obs = flatten_observation(policy.task, obs)
        obs = np.asarray(obs, np.float64)
        rows = obs[None] if obs.ndim == 1 else obs
        if rows.shape != (self.batch_size, policy.obs_dim):
            raise ValueError(
                f"found obs {obs.shape}, expected ({self.batch_size}, "
                f"{policy.obs_dim}) or of one environment ({policy.obs_dim},); make a "
                "controller of another batch_size for another number"
            )
        self._require_finite(rows)
        decided = self._decide(
            normalize_obs(policy.normalization, rows),
            self._per_row("seed", seed, np.uint32),
            self._per_row("index", index, np.int32),
        )
        actions = unnormalize_action(policy.normalization, np.asarray(decided))
        return actions[0] if obs.ndim == 1 else actions

    def actions(
        self,
        observe: Callable[[], Observation],
        seed: int = 0,
        execute: int | None = None,
    ) -> Iterator[np.ndarray]:
        """Yields one raw action after the other, `[Da]` or `[B, Da]`, without end.

        Receding horizon: of each chunk the first `execute` actions are given out, then
        a new one is decided. `execute` = Ta is what the policy was trained for.

        Args:
          observe: called when a chunk is due, returns the latest observation as
            `chunk` takes it.
          seed: of the episode, as `chunk`'s.
          execute: 1 to Ta; None is Ta.

        Raises:
          ValueError: `execute` is out of its range; what `chunk` raises.
        """
        chunk_len = self.steered.policy.chunk_len
        execute = chunk_len if execute is None else execute
        if not 1 <= execute <= chunk_len:
            raise ValueError(f"found execute {execute}, expected 1 to {chunk_len}")
        return self._actions(observe, seed, execute)

    def _actions(self, observe, seed, execute) -> Iterator[np.ndarray]:
        index = 0
        while True:
            chunk = self.chunk(observe(), seed, index)
            for step in range(execute):
                yield chunk[..., step, :]
            index += 1

    def export(self, path: str | Path) -> None:
        """Writes the decision, for any B, to one file that needs JAX and NumPy alone.

        docs/deploy.md tells what is in it; `examples/exported_policy.py` reads it.

        Raises:
          UserError: `path` exists or cannot be written.
        """
        decide = make_decide(self.steered, self.noise_seed)
        arrays = (self.steered.learner, self.steered.policy.params)
        write_program(path, decide, arrays, self.steered.policy, self._about())

    def _about(self) -> dict:
        """What the exported file says of where it came from."""
        config = self.steered.config
        return {
            "method": config.method,
            "ddim_steps": config.ddim_steps,
            "candidates": self.steered.method.candidates,
            "control_steps": self.steered.env_steps,
            "noise_seed": self.noise_seed,
        }

    def _per_row(self, name: str, values, dtype) -> np.ndarray:
        """`values` as `[B]` of `dtype`; ValueError where that would change one."""
        values, most = np.asarray(values), np.iinfo(dtype).max
        whole = values.size and np.issubdtype(values.dtype, np.integer)
        if not whole or values.min() < 0 or values.max() > most:
            raise ValueError(
                f"found {name} {values}, expected whole numbers from 0 to {most}"
            )
        return np.broadcast_to(values.astype(dtype), (self.batch_size,))

    def _require_finite(self, rows: np.ndarray) -> None:
        if np.isfinite(rows).all():
            return
        row, entry = np.argwhere(~np.isfinite(rows))[0].tolist()
        name = entry_name(self.steered.policy.task, entry)
        raise ValueError(
            f"observation {row}, entry {entry}{f' ({name})' if name else ''}: found "
            f"{rows[row, entry]}, expected a finite number"
        )


def make_decide(steered: Steered, noise_seed: int) -> Callable[..., jax.Array]:
    """Returns the decision of an evaluation, in normalised units.

    `(learner, params, obs [B, Do], seeds [B] uint32, chunk_index [B] int32) -> chunk
    [B, Ta, Da]`.
    """

    def decide(learner, params, obs, seeds, chunk_index):
        inputs = ActInputs(
            obs,
            jax.random.key(noise_seed),
            seeds,
            chunk_index,
            env_steps=steered.env_steps,
            evaluating=True,
        )
        return steered.method.act(learner, params, inputs).chunk

    return decide
