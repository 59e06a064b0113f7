"""DSRL-SAC: soft actor-critic whose action is the start noise.

Wagenmaker et al. (2025). The frozen decode is part of the environment: every transition
keeps its start noise, and the critics judge (observation, noise), never a chunk. Unlike
in the published code the first rollouts are decoded once, not twice.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import Rule
from dynvgd_jax.core.types import PyTree, Transition
from dynvgd_jax.steering.base import ActInputs, Decision, Method, Setting
from dynvgd_jax.steering.critics import td
from dynvgd_jax.steering.critics.kinds import make_critic
from dynvgd_jax.steering.noise_acting import (
    NOISE,
    make_first_rollouts,
    make_noise_act,
)
from dynvgd_jax.steering.sac import Sac, SacState, make_sac

FIELDS: dict[str, Rule] = {}  # all its fields are shared with DSRL-NA


class DsrlSacState(NamedTuple):
    """Everything that changes while learning."""

    sac: SacState  # its critics judge unit noises
    # [] float32, mean |Q - y| of the previous training call, Q units
    td_error: jax.Array
    num_updates: jax.Array  # [] int32, gradient steps so far


def dsrl_sac(setting: Setting) -> Method:
    """Returns the method.

    Raises:
      UserError: there are offline transitions, whose start noises nobody knows.
    """
    config = setting.config
    if config.replay.offline_dataset:
        raise UserError(
            f"config.replay.offline_dataset: found {config.replay.offline_dataset!r}, "
            "expected none for method 'dsrl_sac', which learns from start noises that "
            "such transitions do not hold; method 'dsrl_na' learns from chunks"
        )
    critic = make_critic(config, setting.obs_dim, setting.flat_dim)
    method = _DsrlSac(setting, make_sac(setting, critic))
    return Method(
        method.init,
        method.act,
        make_first_rollouts(setting, clipped=True),
        update=method.update,
        extras={NOISE: np.zeros(setting.chunk_shape, np.float32)},
        own_noise=True,
        soft_values=True,
    )


@dataclasses.dataclass(frozen=True)
class _DsrlSac:
    """The functions of `Method`, bound to what is static."""

    setting: Setting
    sac: Sac

    def init(self, key: jax.Array) -> DsrlSacState:
        zero = jnp.zeros((), jnp.int32)
        return DsrlSacState(self.sac.init(key), jnp.zeros(()), zero)

    def act(self, state: DsrlSacState, params: PyTree, inputs: ActInputs) -> Decision:
        act = make_noise_act(self.setting, self.sac.actor)
        return act(state.sac.actor.params, params, inputs)

    def update(
        self, state: DsrlSacState, params: PyTree, batches: Transition, key, env_steps
    ):
        """A gradient step for each batch; nothing is decoded."""
        del params, env_steps
        utd, size = batches.reward.shape
        noise = batches.extras[NOISE].reshape(utd, size, self.setting.flat_dim)
        bound = self.setting.config.dsrl.noise_magnitude
        batches = batches._replace(action=noise / bound)

        def step(now, judge, batch, drawn):
            use = (lambda obs, unit: unit, self.sac.critic.q)
            sac, metrics = self.sac.step(now.sac, judge, batch, drawn, *use)
            return now._replace(sac=sac), metrics

        drawn = self.sac.draw_steps(key, utd, noise.shape[1:])
        inputs = (self.sac.critic, state, batches, drawn, key, step)
        return td.training_call(*inputs, pairs=self.sac.pairs)
