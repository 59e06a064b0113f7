"""DSRL-NA: an actor over start noises; noise critics imitate critics of chunks.

Wagenmaker et al. (2025), "Steering Your Diffusion Policy with Latent Space
Reinforcement Learning", its noise-aliased variant. The critics learn from real chunks,
as those of Dynamic VGD do; the actor sees them through critics of (observation, noise).

Unlike in the published code `dsrl.noise_magnitude` counts: its runs set 1.5 and had 1,
which is our default.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dynvgd_jax.core.fields import number, one_of
from dynvgd_jax.core.types import PyTree, Transition
from dynvgd_jax.diffusion.base import decode
from dynvgd_jax.steering.base import ActInputs, Decision, Method, Setting, Value
from dynvgd_jax.steering.critics import td
from dynvgd_jax.steering.critics.base import Critic
from dynvgd_jax.steering.critics.kinds import make_critic
from dynvgd_jax.steering.critics.mlp import make_mean_critic
from dynvgd_jax.steering.noise_acting import (
    make_first_rollouts,
    make_noise_act,
    without_extras,
)
from dynvgd_jax.steering.sac import Sac, SacState, Trained, make_sac
from dynvgd_jax.steering.vgd import blur

# Folded into an update's key, which is otherwise split in two; see `vgd`.
DISTILL_KEY = 4

# Start noises at which the noise critics learn: "randn" reaches beyond the actor's
# bounds (published), "uniform" fills them.
DISTILL_NOISES = ("randn", "uniform")

FIELDS = {
    "dsrl.distill_steps": number(1, 100_000),
    "dsrl.distill_noise": one_of(DISTILL_NOISES),
}


class DsrlNaState(NamedTuple):
    """Everything that changes while learning."""

    sac: SacState  # its critics judge chunks
    noise_critic: Trained  # leading axis N
    # [] float32, mean |Q - y| of the previous training call, Q units
    td_error: jax.Array
    num_updates: jax.Array  # [] int32, gradient steps so far, without distillation


def dsrl_na(setting: Setting) -> Method:
    """Returns the method."""
    sizes = (setting.config, setting.obs_dim, setting.flat_dim)
    sac = make_sac(setting, make_critic(*sizes))
    method = _DsrlNa(setting, sac, make_mean_critic(*sizes))
    return Method(
        method.init,
        method.act,
        without_extras(make_first_rollouts(setting, clipped=False)),
        update=method.update,
        value=method.value,
        more_batches=setting.config.dsrl.distill_steps,
        own_noise=True,
        soft_values=True,
    )


@dataclasses.dataclass(frozen=True)
class _DsrlNa:
    """The functions of `Method`, bound to what is static."""

    setting: Setting
    sac: Sac
    noise_critic: Critic  # of (obs, unit noise)

    def init(self, key: jax.Array) -> DsrlNaState:
        own, noise_key = jax.random.split(key)
        return DsrlNaState(
            self.sac.init(own),
            self.sac.begin(self.noise_critic.init(noise_key)),
            jnp.zeros(()),
            jnp.zeros((), jnp.int32),
        )

    def act(self, state: DsrlNaState, params: PyTree, inputs: ActInputs) -> Decision:
        act = without_extras(make_noise_act(self.setting, self.sac.actor))
        return act(state.sac.actor.params, params, inputs)

    def update(
        self, state: DsrlNaState, params: PyTree, batches: Transition, key, env_steps
    ):
        """Gradient steps on the first batches, then distillation on the others."""
        del env_steps
        config = self.setting.config
        batches = blur(key, batches, config.critic.action_noise)
        utd = len(batches.reward) - config.dsrl.distill_steps
        steps, others = (
            jax.tree.map(lambda leaf, part=part: leaf[part], batches)
            for part in (slice(utd), slice(utd, None))
        )
        prepared = self.setting.denoiser.prepare(params)

        def judged(obs, unit):
            return self._decode(prepared, obs, self._bound * unit)

        def noise_value(critic_params, obs, unit):
            del critic_params  # those of chunks
            return self.noise_critic.q(state.noise_critic.params, obs, unit)

        def step(now, judge, batch, drawn):
            use = (judged, noise_value)
            sac, metrics = self.sac.step(now.sac, judge, batch, drawn, *use)
            return now._replace(sac=sac), metrics

        shape = (batches.reward.shape[1], self.setting.flat_dim)
        drawn = self.sac.draw_steps(key, utd, shape)
        inputs = (self.sac.critic, state, steps, drawn, key, step)
        after, metrics = td.training_call(*inputs, pairs=self.sac.pairs)
        noise_critic, loss = self._distill(
            state.noise_critic, after.sac, prepared, others, key
        )
        metrics["train/noise_critic_loss"] = loss
        return after._replace(noise_critic=noise_critic), metrics

    def value(self, state: DsrlNaState, obs: jax.Array, chunk: jax.Array) -> Value:
        flat = chunk.reshape(len(chunk), -1)
        q = self.sac.critic.q(state.sac.critic.params, obs, flat)
        return Value(q, self.sac.combine(q), jnp.ones(len(chunk)))

    def _distill(self, noise_critic: Trained, sac: SacState, prepared, batches, key):
        """Noise critics after a step on each batch `[n, B]`, and the mean loss.

        `0.5 sum_i mean_B (Qnoise_i(s, w / bound) - Q_i(s, decode(w)))^2`; the critics
        of chunks stand still, so that all decodes are one.
        """
        config, setting = self.setting.config, self.setting
        shape = (*batches.reward.shape, setting.flat_dim)
        distill_key, bound = jax.random.fold_in(key, DISTILL_KEY), self._bound
        if config.dsrl.distill_noise == "randn":
            noise = jax.random.normal(distill_key, shape)
        else:
            noise = jax.random.uniform(distill_key, shape, minval=-bound, maxval=bound)
        obs = batches.obs.reshape(-1, setting.obs_dim)
        flat = self._decode(prepared, obs, noise.reshape(-1, setting.flat_dim))
        wanted = self.sac.critic.q(sac.critic.params, obs, flat)
        wanted = jnp.moveaxis(wanted.reshape(-1, *shape[:2]), 1, 0)  # [n, N, B]

        def one_step(trained, xs):
            obs, unit, wanted = xs

            def loss_fn(params):
                q = self.noise_critic.q(params, obs, unit)
                return 0.5 * jnp.sum(jnp.mean(jnp.square(q - wanted), axis=1))

            loss, grads = jax.value_and_grad(loss_fn)(trained.params)
            return self.sac.descend(trained, grads), loss

        xs = (batches.obs, noise / bound, wanted)
        noise_critic, losses = jax.lax.scan(one_step, noise_critic, xs)
        return noise_critic, self.setting.average(jnp.mean(losses))

    def _decode(self, prepared, obs, flat_noise):
        """Flat chunks `[B, Ta*Da]` of flat start noises."""
        noise = flat_noise.reshape(-1, *self.setting.chunk_shape)
        chunk = decode(self.setting.denoiser, prepared, noise, obs)
        return chunk.reshape(flat_noise.shape)

    @property
    def _bound(self) -> float:
        return self.setting.config.dsrl.noise_magnitude
