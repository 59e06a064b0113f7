"""A steered policy: the method built from a configuration, and its saved runs."""

import dataclasses
import functools
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dynvgd_jax.core.command_line import expand
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import check_fields, get_field, set_fields
from dynvgd_jax.core.types import PyTree
from dynvgd_jax.deploy.controller import Controller, Steered
from dynvgd_jax.diffusion import policy_files
from dynvgd_jax.diffusion.policy import Policy
from dynvgd_jax.diffusion.policy_files import load_policy
from dynvgd_jax.runs.checkpoint import CheckpointStore
from dynvgd_jax.runs.settings import read_config
from dynvgd_jax.steering import methods
from dynvgd_jax.steering.base import ActInputs, Method
from dynvgd_jax.steering.critics.kinds import MEANING
from dynvgd_jax.steering.methods import build_method, state_shapes
from dynvgd_jax.steering.vgd import WEIGHTED

log = logging.getLogger(__name__)

# Parts of a run folder.
CHECKPOINTS = "checkpoints"
POLICY = "policy"
SOURCE_FILE = "source.json"  # where its critics come from, if not from training


def checkpoint_tree(learner: PyTree, env_steps: int) -> dict[str, Any]:
    """Returns what a checkpoint of a run holds."""
    return {"learner": learner, "env_steps": env_steps}


@dataclasses.dataclass(frozen=True)
class Agent:
    """A base policy with what a method learned to steer it."""

    config: ConfigDict  # of the run, overrides applied
    policy: Policy
    method: Method
    learner: PyTree  # the method's state
    env_steps: int  # control steps of training behind it

    def act(
        self,
        obs: np.ndarray,
        noise: np.ndarray | None = None,
        td_error: float | None = None,
    ) -> np.ndarray:
        """Returns `[B, Ta, Da]`: the steered decode of exactly `noise`.

        A method that learns its start noise needs none: the golden ticket has one, and
        DSRL's actor then takes its mode.

        Args:
          obs: `[B, Do]` normalised observations.
          noise: `[B, Ta, Da]` start noise; of `[B, C, Ta, Da]` the one whose chunk the
            critics value most; for DSRL the normal draw with which its actor samples;
            None for a method that has learned its own noise.
          td_error: of method dynvgd, the mean |Q - y| that w_global sees, in Q units;
            None takes the run's.

        Raises:
          ValueError: a shape is wrong, or the method needs a noise.
          UserError: the method takes no noise, or weighs nothing by a TD error.
        """
        obs = jnp.asarray(obs, jnp.float32)
        if obs.ndim != 2 or not len(obs) or obs.shape[1] != self.policy.obs_dim:
            raise ValueError(
                f"found obs {obs.shape}, expected (B, {self.policy.obs_dim}), B at "
                "least 1"
            )
        if noise is None and not self.method.own_noise:
            raise ValueError(
                f"found no noise, expected one for method {self.config.method!r}"
            )
        if noise is not None:
            noise = jnp.asarray(noise, jnp.float32)
            chunk = (self.policy.chunk_len, self.policy.action_dim)
            candidates = noise.shape[1:2] if noise.ndim == 4 else ()
            if noise.shape != (len(obs), *candidates, *chunk):
                raise ValueError(
                    f"found noise {noise.shape}, expected {(len(obs), *chunk)}"
                )
        learner = self.learner
        if td_error is not None:
            if self.config.method not in WEIGHTED:
                raise UserError(
                    f"method {self.config.method!r} weighs nothing by a TD error, "
                    "found a td_error; give none"
                )
            if not td_error >= 0:  # nor NaN
                raise ValueError(f"found td_error {td_error}, expected at least 0")
            learner = learner._replace(td_error=jnp.float32(td_error))
        return self._compiled_act(learner, self.policy.params, obs, noise)

    def controller(
        self, batch_size: int = 1, noise_seed: int | None = None
    ) -> Controller:
        """Returns the agent for a control loop, compiled: see `deploy.controller`.

        Args:
          batch_size: observations that it decides for at once.
          noise_seed: draws the start noises; None is the run's `eval.seed`.

        Raises:
          ValueError: a number is out of its range.
        """
        parts = (self.config, self.policy, self.method, self.learner, self.env_steps)
        return Controller(Steered(*parts), batch_size, noise_seed)

    @functools.cached_property
    def _compiled_act(self):
        def act(learner, policy_params, obs, noise):
            inputs = ActInputs(
                obs,
                key=None,
                seeds=None,
                chunk_index=None,
                env_steps=self.env_steps,
                evaluating=True,
                noise=noise,
            )
            return self.method.act(learner, policy_params, inputs).chunk

        return jax.jit(act)


def load_agent(folder: str | Path, overrides: dict[str, Any] | None = None) -> Agent:
    """Returns the agent of a run folder (its newest checkpoint) or of one checkpoint.

    Args:
      folder: a run's folder, or `<run>/checkpoints/<control steps>`.
      overrides: fields by dotted name, as behind `--config.` on the command line, such
        as `{"guidance.scale": 0.5, "ddim_steps": 4}`.

    Raises:
      UserError: there is no such run or checkpoint, it is damaged, or an override is
        unknown or does not fit the saved critics or the policy.
    """
    folder, step = find_checkpoint(folder)
    saved = read_config(folder)
    config = ConfigDict(saved.to_dict())
    with config.unlocked():
        config.base_policy = str(folder / POLICY)
    config.lock()
    set_fields(config, overrides or {})
    check_steering(config)
    policy = load_policy(config.base_policy)
    if {"task", "base_policy"} & {*(overrides or {})}:
        policy.require_task(config.task)
    if {"policy_kind", "base_policy"} & {*(overrides or {})}:
        policy.require_kind(config.policy_kind)
    if config.method != saved.method:
        _refuse_method(folder, saved, config, policy)
    _refuse_critics(folder, saved, config)
    method = build_method(config, policy)
    tree = _restore(folder, step, method)
    learned = saved.initial_critics or (folder / SOURCE_FILE).exists()
    if method.update is not None and not learned and not tree["learner"].num_updates:
        log.warning(
            "checkpoint %d of %s has untrained critics, which steer at random: it was "
            "written before the first training call",
            step,
            folder,
        )
    return Agent(config, policy, method, tree["learner"], tree["env_steps"])


def _refuse_method(
    folder: Path, saved: ConfigDict, config: ConfigDict, policy: Policy
) -> None:
    """Raises UserError where a run's method left nothing by which another can steer."""
    other, name = ConfigDict(config.to_dict()), config.method
    other.first_rollout_env_steps = 0  # of training, no state
    trained, wanted = (build_method(c, policy) for c in (saved, other))
    structures = {jax.tree.structure(state_shapes(m)) for m in (trained, wanted)}
    if len(structures) > 1:
        raise UserError(
            f"{folder} is a run of method {saved.method!r}, whose state says nothing "
            f"to method {name!r}; load it without that override, or load a run of "
            f"{name!r}"
        )
    if wanted.trains and not trained.trains and not saved.initial_critics:
        raise UserError(
            f"{folder} is a run of method {saved.method!r}, which trains no critics, "
            f"so that method {name!r} would steer by untrained ones; load a run of "
            f"{name!r}"
        )


def _refuse_critics(folder: Path, saved: ConfigDict, config: ConfigDict) -> None:
    """Raises UserError where saved critics' numbers mean something else.

    Shapes alone do not tell: as many quantiles as bins have the same.
    """
    for field in ("critic.kind", *MEANING.get(config.critic.kind, ())):
        found, expected = get_field(saved, field), get_field(config, field)
        if found != expected:
            raise UserError(
                f"{folder} holds critics of {field} {found!r}, expected {expected!r}; "
                f"give --config.{field}={found}, or the critics of another run"
            )


def check_steering(config: ConfigDict) -> None:
    """Raises UserError where what decides a steered policy makes no sense."""
    check_fields(config, methods.FIELDS | policy_files.FIELDS)


def load_learner(folder: str | Path, config: ConfigDict, method: Method) -> PyTree:
    """Returns the learner of a run (its newest checkpoint) or of one checkpoint.

    Args:
      folder: a run's folder, or `<run>/checkpoints/<control steps>`.
      config: of the run that takes them over.
      method: of that run.

    Raises:
      UserError: there is no such checkpoint, or its critics are of another kind or
        have other sizes.
    """
    folder, step = find_checkpoint(folder)
    _refuse_critics(folder, read_config(folder), config)
    return _restore(folder, step, method)["learner"]


def find_checkpoint(folder: str | Path) -> tuple[Path, int]:
    """Returns a run's folder and the number of the checkpoint that `folder` means.

    Raises:
      UserError: there is no such run, or it holds no checkpoint.
    """
    folder = expand(folder)
    if folder.parent.name == CHECKPOINTS and folder.name.isdecimal():
        return folder.parent.parent, int(folder.name)
    step = CheckpointStore(folder / CHECKPOINTS).latest()
    if step is None:
        read_config(folder)  # says so where this is no run at all
        raise UserError(
            f"found no checkpoint in {folder / CHECKPOINTS}; the run wrote none yet"
        )
    return folder, step


def _restore(folder: Path, step: int, method: Method) -> dict[str, Any]:
    template = checkpoint_tree(state_shapes(method), 0)
    return CheckpointStore(folder / CHECKPOINTS).restore(step, template)
