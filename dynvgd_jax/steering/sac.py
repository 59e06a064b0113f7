"""Soft actor-critic (Haarnoja et al. 2018) over start noises: one gradient step.

What DSRL-NA and DSRL-SAC share. They differ in what the critics judge, chunks or
noises, and in which critics the actor climbs.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import number
from dynvgd_jax.core.types import PyTree, Transition
from dynvgd_jax.steering.base import Metrics, Setting
from dynvgd_jax.steering.critics import td
from dynvgd_jax.steering.critics.base import RANDOM_PAIR, REDUCERS, Critic
from dynvgd_jax.steering.critics.groups import require_one_group
from dynvgd_jax.steering.critics.td import CriticState
from dynvgd_jax.steering.noise_actor import NoiseActor, make_noise_actor

FIELDS = {
    "dsrl.initial_entropy_coef": number(1e-9, 1e9),
    "dsrl.target_entropy": number(-1e6, 1e6),
}


class Trained(NamedTuple):
    """Parameters and Adam's moments."""

    params: PyTree
    opt_state: Any


class SacState(NamedTuple):
    """What one gradient step changes."""

    actor: Trained
    log_entropy_coef: Trained  # [] float32, log alpha
    critic: CriticState


class Steps(NamedTuple):
    """What the gradient steps of one training call draw; leading axis utd."""

    now: jax.Array  # [utd, B, Ta*Da], standard normal, of the actor at s
    after: jax.Array  # the same at s'


# (params of the critics as they are now, obs [B, Do], unit noise [B, Ta*Da]) -> [N, B]
NoiseValue = Callable[[PyTree, jax.Array, jax.Array], jax.Array]
# (obs [B, Do], unit noise [B, Ta*Da]) -> what the critics judge, [B, Ta*Da]
Judged = Callable[[jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Sac:
    """The step, bound to what is static; see `make_sac`."""

    actor: NoiseActor
    critic: Critic
    optimizer: optax.GradientTransformation
    tau: float
    target_entropy: float
    initial_entropy_coef: float
    reduce: str  # `target_reduce`, of targets and of what the actor climbs
    average: Callable[[PyTree], PyTree]

    def init(self, key: jax.Array) -> SacState:
        """Returns a fresh state."""
        actor_key, critic_key = jax.random.split(key)
        return SacState(
            self.begin(self.actor.init(actor_key)),
            self.begin(jnp.float32(math.log(self.initial_entropy_coef))),
            td.fresh_critics(self.critic, self.optimizer, critic_key),
        )

    def begin(self, params: PyTree) -> Trained:
        """Returns `params` before their first step."""
        return Trained(params, self.optimizer.init(params))

    def descend(self, trained: Trained, grads: PyTree) -> Trained:
        """Returns `trained` after one step of Adam along the devices' mean gradient."""
        grads = self.average(grads)
        updates, opt_state = self.optimizer.update(
            grads, trained.opt_state, trained.params
        )
        return Trained(optax.apply_updates(trained.params, updates), opt_state)

    def draw_steps(self, key: jax.Array, utd: int, shape: tuple[int, int]) -> Steps:
        """Returns the draws of `utd` steps on batches of `shape`, B and Ta*Da.

        `key` is the update's, the first half of whose split drew the batches.
        """
        _, draw_key = jax.random.split(key)
        now, after = jax.random.normal(draw_key, (2, utd, *shape))
        return Steps(now, after)

    @property
    def pairs(self) -> bool:
        """Whether targets are those of two drawn critics."""
        return self.reduce == RANDOM_PAIR

    def step(
        self,
        state: SacState,
        judge: Critic,
        batch: Transition,
        drawn: Steps,
        judged: Judged,
        noise_value: NoiseValue,
    ) -> tuple[SacState, Metrics]:
        """Returns the state after one step of every part, and `train/*` scalars.

        As published: actor and entropy coefficient of before the step give the target,
        then the critics learn, and the actor climbs last.

        Args:
          state: before the step.
          judge: of the targets, all critics or two of them.
          batch: as drawn, leading axis B; its action is what the critics judge.
          drawn: of this step alone.
          judged: of a next noise.
          noise_value: what the actor climbs.
        """
        actor_params = state.actor.params
        _, log_prob = self.actor.sample(actor_params, batch.obs, drawn.now)
        coef = jnp.exp(state.log_entropy_coef.params)
        # d/d log_coef of -mean(log_coef (log_prob + target_entropy))
        log_coef = self.descend(
            state.log_entropy_coef, -jnp.mean(log_prob + self.target_entropy)
        )

        y = self._target(state, judge, batch, drawn, judged, coef)
        critic, metrics = td.gradient_step(
            self.critic, self.optimizer, state.critic, batch, y, self.tau, self.average
        )

        def actor_loss(params):
            unit, log_prob = self.actor.sample(params, batch.obs, drawn.now)
            q = self.combine(noise_value(critic.params, batch.obs, unit))
            return jnp.mean(coef * log_prob - q)

        loss, grads = jax.value_and_grad(actor_loss)(actor_params)
        actor = self.descend(state.actor, grads)
        own = {"train/actor_loss": loss, "train/log_prob": jnp.mean(log_prob)}
        metrics |= self.average(own) | {"train/entropy_coef": coef}
        return SacState(actor, log_coef, critic), metrics

    def combine(self, q: jax.Array) -> jax.Array:
        """Returns `[B]` of `q [N, B]`, the least or the mean."""
        return REDUCERS["min" if self.pairs else self.reduce](q)

    def _target(self, state: SacState, judge: Critic, batch, drawn, judged, coef):
        """`R + discount (reduce_i Qtarget_i(s', .) - coef log_prob')`, `[B, ...]`."""
        unit, log_prob = self.actor.sample(
            state.actor.params, batch.next_obs, drawn.after
        )
        bonus = -coef * log_prob
        soft = batch._replace(reward=batch.reward + batch.discount * bonus)
        flat = judged(batch.next_obs, unit)
        return td.next_target(judge, state.critic.target_params, soft, flat)


def make_sac(setting: Setting, critic: Critic) -> Sac:
    """Returns the step that the configuration asks for.

    Raises:
      UserError: the critics' bins end below what the entropy is worth, or the critics
        learn in groups.
    """
    config = setting.config
    require_one_group(config)
    if config.critic.kind == "hl_gauss" and config.critic.v_max <= 0:
        raise UserError(
            f"config.critic.v_max: found {config.critic.v_max}, expected above 0 for "
            f"method {config.method!r}, whose values hold the entropy's worth"
        )
    return Sac(
        actor=make_noise_actor(config, setting.obs_dim, setting.flat_dim),
        critic=critic,
        optimizer=td.make_optimizer(config.learning_rate),
        tau=config.target_tau,
        target_entropy=config.dsrl.target_entropy,
        initial_entropy_coef=config.dsrl.initial_entropy_coef,
        reduce=config.target_reduce,
        average=setting.average,
    )
