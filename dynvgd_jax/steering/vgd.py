"""Dynamic VGD, VGD; with scale 0 the choice among proposals, and the base policy.

`make_vgd` binds the static sizes and choices; everything it returns takes its state and
gives it back.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import count, number, one_of
from dynvgd_jax.core.types import PyTree, Transition
from dynvgd_jax.diffusion.base import decode
from dynvgd_jax.steering.base import (
    ActInputs,
    Decision,
    Method,
    Metrics,
    Setting,
    Value,
)
from dynvgd_jax.steering.choice import best_of
from dynvgd_jax.steering.critics import td
from dynvgd_jax.steering.critics.base import RANDOM_PAIR, REDUCERS, Critic
from dynvgd_jax.steering.critics.groups import in_groups, num_groups, side_by_side
from dynvgd_jax.steering.critics.kinds import make_critic
from dynvgd_jax.steering.critics.td import CriticState
from dynvgd_jax.steering.guidance import (
    Guidance,
    guidance_options,
    guided_decode,
    guided_steps,
    make_guide_fn,
    summarise,
)
from dynvgd_jax.steering.noise import make_explore, start_noise
from dynvgd_jax.steering.proposals import (
    PROPOSALS,
    Proposals,
    candidate_noise,
    draw_subset,
    make_propose,
    proposals_options,
    require_stored,
    stored_example,
    target_over_proposals,
)
from dynvgd_jax.steering.weight import dynamic_weight

BLUR_KEY = 2  # folded into an update's key, which is otherwise split in two

# The critics' parameters that guide and choose; table of config strings.
GUIDING_CRITICS: dict[str, Callable[[CriticState], PyTree]] = {
    "current": lambda critic: critic.params,
    "target": lambda critic: critic.target_params,
}

# Methods that take guided steps, and those that weigh them by the TD error.
GUIDED = ("dynvgd", "vgd")
WEIGHTED = ("dynvgd",)

FIELDS = {
    "guidance.critics": one_of(GUIDING_CRITICS),
    "guidance.candidates": number(1, 1024),
    "guidance.warmup_updates": count(),
    "guidance.weight_warmup_env_steps": count(),
    "critic.action_noise": number(0.0, 10.0),
}


class LearnerState(NamedTuple):
    """Everything that changes while learning."""

    critic: CriticState
    # [] float32, mean |Q - y| of the previous training call, Q units
    td_error: jax.Array
    num_updates: jax.Array  # [] int32, gradient steps so far


class VgdOptions(NamedTuple):
    """Static choices of the method."""

    guidance: Guidance
    learning_rate: float
    tau: float = 0.005  # Polyak step of the target critics after every gradient step
    proposals: Proposals = Proposals()  # chunks that acting decodes and chooses from
    critics: str = "current"  # key of GUIDING_CRITICS
    warmup_updates: int = 0  # gradient steps over which lambda ramps up
    weight_warmup_env_steps: int = 0  # control steps before w is applied
    action_noise: float = 0.0  # deviation of what is added to learned actions
    random_pair: bool = False  # targets are the least of two of the target critics
    groups: int = 1  # of critics that learn apart
    utd: int = 1  # gradient steps of a training call

    @property
    def more_batches(self) -> int:
        """Batches of a training call beside one for each gradient step."""
        return (self.groups - 1) * self.utd


def vgd_options(setting: Setting, dynamic: bool) -> VgdOptions:
    """Returns what the configuration says of the method; `dynamic`: with w."""
    config = setting.config
    return VgdOptions(
        guidance=guidance_options(config, dynamic),
        learning_rate=config.learning_rate,
        tau=config.target_tau,
        proposals=proposals_options(setting),
        critics=config.guidance.critics,
        warmup_updates=config.guidance.warmup_updates,
        weight_warmup_env_steps=config.guidance.weight_warmup_env_steps,
        action_noise=config.critic.action_noise,
        random_pair=config.target_reduce == RANDOM_PAIR,
        groups=num_groups(config),
        utd=config.utd,
    )


def dynvgd(setting: Setting) -> Method:
    """Returns Dynamic VGD: guidance weighted by the critics' uncertainty."""
    return _method(setting, vgd_options(setting, dynamic=True))


def vgd(setting: Setting) -> Method:
    """Returns VGD: the fixed weight 1 and no clip of the guided x0."""
    return _method(setting, vgd_options(setting, dynamic=False))


def base(setting: Setting) -> Method:
    """Returns the base policy: no guidance and no choice; it learns nothing.

    Its state is VGD's, so that a run of that can be looked at without its critics.
    """
    options = vgd_options(setting, dynamic=False)
    guidance = options.guidance._replace(scale=0.0)
    options = options._replace(
        guidance=guidance, proposals=Proposals(noises=(setting.config.acting_noise,))
    )
    return _method(setting, options)._replace(update=None)


def best_of_n(setting: Setting) -> Method:
    """Returns the choice among stored proposals, whatever `guidance.scale` says.

    Targets look at them as `target_backup` says; the maximum is EMaQ's (Ghasemipour et
    al. 2021).

    Raises:
      UserError: no proposals are stored, or there is one to choose from.
    """
    options = vgd_options(setting, dynamic=False)
    if options.proposals.count < 2:
        raise UserError(
            f"config.guidance.candidates: found {options.proposals.count}, expected at "
            "least 2 for method 'best_of_n', which chooses among them; preset :quick "
            "has 8"
        )
    require_stored(options.proposals, "best_of_n")
    guidance = options.guidance._replace(scale=0.0)
    return _method(setting, options._replace(guidance=guidance))


def _method(setting: Setting, options: VgdOptions) -> Method:
    critic = make_critic(setting.config, setting.obs_dim, setting.flat_dim)
    return make_vgd(options, critic, setting)


def make_vgd(options: VgdOptions, critic: Critic, setting: Setting) -> Method:
    """Returns the method of these options and critics.

    Args:
      options: static choices.
      critic: the ensemble.
      setting: policy and sizes; its configuration decides `explore` alone.

    Raises:
      UserError: `guidance.last_k` or `first_k` does not fit the policy's steps.
    """
    steps = guided_steps(options.guidance, setting.denoiser.num_steps)
    method = _Vgd(options, critic, setting, steps)
    own = Method(
        method.init,
        method.act,
        make_explore(setting),
        update=method.update,
        value=method.value,
        candidates=options.proposals.count,
        more_batches=options.more_batches,
    )
    if not options.proposals.stored:
        return own
    return own._replace(
        propose=method.propose,
        next_extras=stored_example(options.proposals, setting),
        follows=len(steps) > 0,  # a guided chunk is none of the proposals
    )


@dataclasses.dataclass(frozen=True)
class _Vgd:
    """The functions of `Method`, bound to what is static."""

    options: VgdOptions
    critic: Critic
    setting: Setting
    steps: range  # the guided ones

    def init(self, key: jax.Array) -> LearnerState:
        critic_state = td.fresh_critics(self.critic, self._optimizer, key)
        return LearnerState(critic_state, jnp.zeros(()), jnp.zeros((), jnp.int32))

    def propose(self, params: PyTree, inputs: ActInputs) -> dict[str, jax.Array]:
        return make_propose(self.options.proposals, self.setting)(params, inputs)

    def act(self, state: LearnerState, params: PyTree, inputs: ActInputs) -> Decision:
        noise, obs = inputs.noise, inputs.obs
        if noise is None and self.options.proposals.stored and not self.steps:
            proposed = inputs.proposed or self.propose(params, inputs)
            return self._choose(state, obs, proposed[PROPOSALS], {})
        if noise is None:
            noise = self._start_noise(inputs)
        prepared = self.setting.denoiser.prepare(params)
        if noise.ndim == 3:
            chunk, scalars = self._steer(state, prepared, noise, obs, inputs.env_steps)
            return Decision(chunk, {}, scalars())
        # of C candidates all are decoded, and the chunk of highest value acts
        repeated = jnp.repeat(obs, noise.shape[1], axis=0)
        x = noise.reshape(-1, *self.setting.chunk_shape)
        chunks, scalars = self._steer(state, prepared, x, repeated, inputs.env_steps)
        return self._choose(state, obs, chunks.reshape(noise.shape), scalars())

    def _choose(self, state: LearnerState, obs, chunks, scalars: Metrics) -> Decision:
        """Of the chunks `[B, C, Ta, Da]` those that the guiding critics value most."""

        def value_fn(obs, flat):
            q = self.critic.q(self._guiding(state.critic), obs, flat)
            return self._reduce(q)

        chunk, gain = best_of(value_fn, obs, chunks)
        return Decision(chunk, {}, scalars | {"guide/candidate_gain": gain})

    def update(
        self, state: LearnerState, params: PyTree, batches: Transition, key, env_steps
    ) -> tuple[LearnerState, Metrics]:
        batches = side_by_side(batches, self.options.groups)
        batches = blur(key, batches, self.options.action_noise)
        critic = in_groups(self.critic, self.options.groups)
        stored = self.options.proposals.stored
        targets = self._stored_targets if stored else self._guided_targets
        steps, make_target = targets(state, params, batches, key, env_steps)

        def step(now, judge, batch, own):
            critic_state, metrics = td.gradient_step(
                critic,
                self._optimizer,
                now.critic,
                batch,
                make_target(now, judge, batch, own),
                self.options.tau,
                self.setting.average,
            )
            return now._replace(critic=critic_state), metrics

        inputs = (critic, state, batches, steps, key, step)
        return td.training_call(*inputs, pairs=self.options.random_pair)

    def _stored_targets(self, state, params, batches, key, env_steps):
        """What each gradient step needs, `[utd, ...]`, and its target function.

        `(state now, critics of the target, batch, own part) -> y [B, ...]`.
        """
        del state, params, env_steps  # nothing is decoded
        options = self.options.proposals
        _, subset_key = jax.random.split(key)  # the first half drew the batches

        def make_target(now, judge, batch, subset_key):
            chunks = draw_subset(options, subset_key, batch)
            target_params = now.critic.target_params
            return target_over_proposals(
                judge, target_params, batch, chunks, options.backup
            )

        return jax.random.split(subset_key, len(batches.reward)), make_target

    def _guided_targets(self, state, params, batches, key, env_steps):
        """As `_stored_targets`, of a chunk that each step decodes and guides anew."""
        setting, chunk_shape = self.setting, self.setting.chunk_shape
        _, noise_key = jax.random.split(key)  # the first half drew the batches
        noise = jax.random.normal(noise_key, (*batches.reward.shape, *chunk_shape))
        prepared = setting.denoiser.prepare(params)
        # Before the first guided step the decode does not depend on the critics: one
        # large batch outside the scan instead of `utd` small ones inside.
        x_prefix = decode(
            setting.denoiser,
            prepared,
            noise.reshape(-1, *chunk_shape),
            batches.next_obs.reshape(-1, setting.obs_dim),
            end_k=self.steps.start,
        )

        def make_target(now, judge, batch, x):
            where = (x, batch.next_obs, env_steps, self.steps.start)
            chunk, _ = self._steer(now, prepared, *where)
            flat = chunk.reshape(len(chunk), setting.flat_dim)
            return td.next_target(judge, now.critic.target_params, batch, flat)

        return x_prefix.reshape(noise.shape), make_target

    def value(self, state: LearnerState, obs: jax.Array, chunk: jax.Array) -> Value:
        flat = chunk.reshape(len(chunk), -1)
        q = self.critic.q(self._guiding(state.critic), obs, flat)
        weighting = self.options.guidance.weighting
        weight = dynamic_weight(q, state.td_error, weighting)
        return Value(q, self._reduce(q), weight)

    def _steer(self, state, prepared, x, obs, env_steps, first_k=0):
        """The guided decode of exactly `x`, and a function that gives its scalars."""
        options, denoiser = self.options, self.setting.denoiser
        guidance = options.guidance
        scale = self._lambda_base(state.num_updates)
        weight_on = env_steps >= options.weight_warmup_env_steps
        params = self._guiding(state.critic)

        def q_fn(obs, flat):
            return self.critic.q(params, obs, flat)

        statistics = (state.td_error, scale, weight_on)
        guide_fn = make_guide_fn(guidance, denoiser.num_steps, q_fn, *statistics)
        where = (self.steps, guidance.point, first_k)
        x0, stats = guided_decode(denoiser, prepared, x, obs, guide_fn, *where)
        return x0, lambda: summarise(stats, obs, q_fn, guidance, scale)

    def _start_noise(self, inputs: ActInputs) -> jax.Array:
        if inputs.key is None:
            raise ValueError("found neither start noise nor key, expected one of them")
        options, shape = self.options.proposals, self.setting.chunk_shape
        of_episode = (inputs.key, inputs.seeds, inputs.chunk_index)
        if options.count > 1:
            return candidate_noise(options, *of_episode, shape)
        return start_noise(options.noises[0], *of_episode, shape)

    def _lambda_base(self, num_updates: jax.Array) -> jax.Array:
        scale = jnp.float32(self.options.guidance.scale)
        if self.options.warmup_updates:
            scale *= jnp.minimum(num_updates / self.options.warmup_updates, 1.0)
        return scale

    @property
    def _optimizer(self):
        return td.make_optimizer(self.options.learning_rate)

    @property
    def _guiding(self) -> Callable[[CriticState], PyTree]:
        return GUIDING_CRITICS[self.options.critics]

    @property
    def _reduce(self) -> Callable[[jax.Array], jax.Array]:
        return REDUCERS[self.options.guidance.reduce]


def blur(key: jax.Array, batches: Transition, deviation: float) -> Transition:
    """Returns `batches` with Gaussian noise on their actions, clipped to [-1, 1].

    Args:
      key: of the update; it may have been split, not folded.
      batches: transitions, any leading axes.
      deviation: standard deviation in normalised action units; 0 changes nothing.
    """
    if not deviation:
        return batches
    noise = jax.random.normal(jax.random.fold_in(key, BLUR_KEY), batches.action.shape)
    action = jnp.clip(batches.action + deviation * noise, -1.0, 1.0)
    return batches._replace(action=action)
