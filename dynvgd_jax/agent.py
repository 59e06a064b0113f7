"""A steered policy: the method built from a configuration, and its saved runs."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dynvgd_jax.core.config_check import check_train, num_offline, set_fields
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.precision import with_precision
from dynvgd_jax.diffusion.policy import Policy, load_policy
from dynvgd_jax.diffusion.schedule import ddim_schedule
from dynvgd_jax.replay.ring import Window
from dynvgd_jax.runs.checkpoint import CheckpointStore
from dynvgd_jax.runs.settings import read_config
from dynvgd_jax.steering.critics.mlp import CriticEnsemble
from dynvgd_jax.steering.critics.td import TdConfig
from dynvgd_jax.steering.guidance import Guidance
from dynvgd_jax.steering.vgd import LearnerState, Vgd, VgdConfig, make_vgd
from dynvgd_jax.training.placement import ONE_DEVICE, Placement

# Parts of a run folder.
CHECKPOINTS = "checkpoints"
POLICY = "policy"


def build_method(
    config: ConfigDict, policy: Policy, placement: Placement = ONE_DEVICE
) -> Vgd:
    """Returns the pure functions of `config.method` for a base policy.

    Method "vgd" has the fixed weight 1 and no clip of the guided x0; "base" is scale 0.
    With several devices a seed `update` is one device's share, see `parallel`.

    Raises:
      UserError: the DDIM or guided steps do not fit the policy.
    """
    schedule = ddim_schedule(policy.schedule, config.ddim_steps)
    options = method_options(config)
    options = options._replace(
        batch_size=options.batch_size // placement.group_devices,
        num_offline=options.num_offline // placement.group_devices,
        window=options.window._replace(
            stride=config.num_envs // placement.group_devices
        ),
    )
    method = make_vgd(
        options,
        CriticEnsemble(config.critic.num, config.critic.width, config.critic.depth),
        schedule,
        policy.eps_fn_maker(schedule),
        policy.obs_dim,
        (policy.chunk_len, policy.action_dim),
        placement.average,
    )
    return Vgd(*(with_precision(function, config.precision) for function in method))


def method_options(config: ConfigDict) -> VgdConfig:
    """Returns the static choices of `config.method`."""
    guidance = Guidance(
        scale=0.0 if config.method == "base" else config.guidance.scale,
        last_k=config.guidance.last_k,
        first_k=config.guidance.first_k,
        point=config.guidance.point,
        time_anneal=config.guidance.time_anneal,
        reduce=config.guidance.reduce,
        critics=config.guidance.critics,
        dynamic=config.method == "dynvgd",
        beta=config.guidance.beta,
        c_local=config.guidance.c_local,
        c_global=config.guidance.c_global,
    )
    td = TdConfig(
        gamma=config.gamma,
        tau=config.target_tau,
        reduce=config.target_reduce,
        target_clip=config.target_clip,
    )
    return VgdConfig(
        guidance=guidance,
        td=td,
        learning_rate=config.learning_rate,
        batch_size=config.batch_size,
        utd=config.utd,
        guidance_warmup_updates=config.guidance.warmup_updates,
        weight_warmup_env_steps=config.guidance.weight_warmup_env_steps,
        num_offline=num_offline(config),
        window=Window(config.target_n_step, config.num_envs, config.gamma),
        action_noise=config.critic.action_noise,
        initial_value=config.critic.initial_value,
    )


def num_candidates(config: ConfigDict) -> int:
    """Returns the chunks that acting chooses from; the base policy does not choose."""
    return 1 if config.method == "base" else config.guidance.candidates


def checkpoint_tree(learner: LearnerState, env_steps: int) -> dict[str, Any]:
    """Returns what a checkpoint of a run holds."""
    return {"learner": learner, "env_steps": env_steps}


@dataclasses.dataclass(frozen=True)
class Agent:
    """A base policy with the critics that steer it."""

    config: ConfigDict  # of the run, overrides applied
    policy: Policy
    method: Vgd
    learner: LearnerState
    env_steps: int  # control steps of training behind it

    def act(
        self, obs: np.ndarray, noise: np.ndarray, td_error: float | None = None
    ) -> np.ndarray:
        """Returns `[B, Ta, Da]`: the guided decode of exactly `noise`.

        Args:
          obs: `[B, Do]` normalised observations.
          noise: `[B, Ta, Da]` start noise; of `[B, C, Ta, Da]` the one whose chunk the
            critics value most.
          td_error: mean |Q - y| that w_global sees, in Q units; None takes the run's.

        Raises:
          ValueError: a shape is wrong.
        """
        obs = jnp.asarray(obs, jnp.float32)
        noise = jnp.asarray(noise, jnp.float32)
        chunk = (self.policy.chunk_len, self.policy.action_dim)
        if obs.shape != (len(obs), self.policy.obs_dim):
            raise ValueError(
                f"found obs {obs.shape}, expected (B, {self.policy.obs_dim})"
            )
        candidates = noise.shape[1:2] if noise.ndim == 4 else ()
        if noise.shape != (len(obs), *candidates, *chunk):
            raise ValueError(
                f"found noise {noise.shape}, expected {(len(obs), *chunk)}"
            )
        learner = self.learner
        if td_error is not None:
            learner = learner._replace(td_error=jnp.float32(td_error))
        return self._compiled_act(learner, self.policy.params, obs, noise)

    @functools.cached_property
    def _compiled_act(self):
        def act(learner, policy_params, obs, noise):
            chunk, _ = self.method.act(
                learner, policy_params, obs, noise, self.env_steps
            )
            return chunk

        return jax.jit(act)


def load_agent(folder: str | Path, overrides: dict[str, Any] | None = None) -> Agent:
    """Returns the agent of a run folder (its newest checkpoint) or of one checkpoint.

    Args:
      folder: a run's folder, or `<run>/checkpoints/<control steps>`.
      overrides: fields by dotted name, as behind `--config.` on the command line, such
        as `{"guidance.scale": 0.5, "ddim_steps": 4}`.

    Raises:
      UserError: there is no such run or checkpoint, it is damaged, or an override is
        unknown or does not fit the saved critics.
    """
    folder, step = _find_checkpoint(folder)
    config = ConfigDict(read_config(folder).to_dict())
    with config.unlocked():
        config.base_policy = str(folder / POLICY)
    config.lock()
    set_fields(config, overrides or {})
    check_train(config)
    policy = load_policy(config.base_policy)
    method = build_method(config, policy)
    tree = _restore(folder, step, method)
    return Agent(config, policy, method, tree["learner"], tree["env_steps"])


def load_learner(folder: str | Path, method: Vgd) -> LearnerState:
    """Returns the critics of a run (its newest checkpoint) or of one checkpoint.

    Args:
      folder: a run's folder, or `<run>/checkpoints/<control steps>`.
      method: of the run that takes them over.

    Raises:
      UserError: there is no such checkpoint, or its critics have other sizes.
    """
    return _restore(*_find_checkpoint(folder), method)["learner"]


def _find_checkpoint(folder: str | Path) -> tuple[Path, int]:
    """A run's folder and the number of the checkpoint that `folder` means."""
    folder = Path(folder)
    if folder.parent.name == CHECKPOINTS and folder.name.isdecimal():
        return folder.parent.parent, int(folder.name)
    step = CheckpointStore(folder / CHECKPOINTS).latest()
    if step is None:
        read_config(folder)  # says so where this is no run at all
        raise UserError(
            f"found no checkpoint in {folder / CHECKPOINTS}; the run wrote none yet"
        )
    return folder, step


def _restore(folder: Path, step: int, method: Vgd) -> dict[str, Any]:
    template = checkpoint_tree(jax.eval_shape(method.init, jax.random.key(0)), 0)
    return CheckpointStore(folder / CHECKPOINTS).restore(step, template)
