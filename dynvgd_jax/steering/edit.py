"""Amortised guidance: a small network moves proposals to where the critics value more.

The frozen policy stays as it is. Of every stored proposal there is an edited one, moved
by at most `max_step` in each number; the critics choose among edited and unedited ones,
in acting and in the backup (EXPO, Dong et al. 2025). Unlike there the edit is
deterministic and pays for its squared length, as the residual of DICE-RL (2026) does.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dynvgd_jax.core.fields import number
from dynvgd_jax.core.types import PyTree, Transition
from dynvgd_jax.diffusion.network import init_on_rows
from dynvgd_jax.steering.base import (
    ActInputs,
    Decision,
    Method,
    Metrics,
    Setting,
    Value,
)
from dynvgd_jax.steering.choice import values_of
from dynvgd_jax.steering.critics import td
from dynvgd_jax.steering.critics.base import REDUCERS, Critic
from dynvgd_jax.steering.critics.groups import in_groups, side_by_side
from dynvgd_jax.steering.critics.kinds import make_critic
from dynvgd_jax.steering.critics.mlp import QNetwork
from dynvgd_jax.steering.critics.td import CriticState
from dynvgd_jax.steering.noise import make_explore
from dynvgd_jax.steering.proposals import (
    PROPOSALS,
    decode_candidates,
    draw_subset,
    make_propose,
    require_stored,
    stored_example,
    target_over_proposals,
)
from dynvgd_jax.steering.vgd import GUIDING_CRITICS, VgdOptions, blur, vgd_options

PICK_KEY = 4  # folded into an update's key beside those of the critics

FIELDS = {
    "edit.max_step": number(0.0, 2.0),
    "edit.penalty": number(0.0, 1e9),
    "edit.width": number(1, 65536),
    "edit.depth": number(1, 64),
}


class EditState(NamedTuple):
    """Everything that changes while learning."""

    critic: CriticState
    editor: PyTree  # the network's parameters
    editor_opt_state: Any  # Adam's moments
    # [] float32, mean |Q - y| of the previous training call, Q units
    td_error: jax.Array
    num_updates: jax.Array  # [] int32, gradient steps so far


class EditOptions(NamedTuple):
    """Static choices of the edit."""

    max_step: float = 0.1  # normalised action units
    penalty: float = 50.0  # Q units per squared normalised action unit
    width: int = 256
    depth: int = 3


def edit(setting: Setting) -> Method:
    """Returns the method; critics, proposals and choice are as for VGD without steps.

    Raises:
      UserError: no proposals are stored, of which edits could be made.
    """
    shared = vgd_options(setting, dynamic=False)
    require_stored(shared.proposals, "edit")
    config = setting.config.edit
    options = EditOptions(config.max_step, config.penalty, config.width, config.depth)
    critic = make_critic(setting.config, setting.obs_dim, setting.flat_dim)
    return make_edit(options, shared, critic, setting)


def make_edit(
    options: EditOptions, shared: VgdOptions, critic: Critic, setting: Setting
) -> Method:
    """Returns the method of these options and critics.

    Args:
      options: of the edit.
      shared: of critics, proposals and choice; what it says of guided steps is unused.
      critic: the ensemble.
      setting: policy and sizes; its configuration decides `explore` alone.
    """
    network = QNetwork(options.width, options.depth, setting.flat_dim)
    method = _Edit(options, shared, critic, setting, network)
    return Method(
        method.init,
        method.act,
        make_explore(setting),
        update=method.update,
        value=method.value,
        propose=make_propose(shared.proposals, setting),
        next_extras=stored_example(shared.proposals, setting),
        candidates=shared.proposals.count,
        more_batches=shared.more_batches,
    )


def edit_loss(
    value: jax.Array, move: jax.Array, counts: jax.Array, penalty: float
) -> jax.Array:
    """Returns the network's loss `[]`, `mean_B counts (penalty |move|^2 - value)`.

    Args:
      value: `[B]` of the edited chunks, in units of Q.
      move: `[B, Ta*Da]` before the clip, so that at an action's bound it is drawn back.
      counts: `[B]` 1, or 0 where nothing follows, so that no critic knows the place.
      penalty: Q units per squared normalised action unit.
    """
    return jnp.mean(counts * (penalty * jnp.sum(jnp.square(move), axis=-1) - value))


@dataclasses.dataclass(frozen=True)
class _Edit:
    """The functions of `Method`, bound to what is static."""

    options: EditOptions
    shared: VgdOptions
    critic: Critic
    setting: Setting
    network: QNetwork

    def init(self, key: jax.Array) -> EditState:
        critic_key, editor_key = jax.random.split(key)
        critic_state = td.fresh_critics(self.critic, self._optimizer, critic_key)
        widths = self.setting.obs_dim, self.setting.flat_dim
        layers = init_on_rows(self.network, editor_key, widths)
        # An untrained network moves nothing.
        layers["out"] = jax.tree.map(jnp.zeros_like, layers["out"])
        editor = {"params": layers}
        opt_state = self._optimizer.init(editor)
        counts = jnp.zeros(()), jnp.zeros((), jnp.int32)
        return EditState(critic_state, editor, opt_state, *counts)

    def act(self, state: EditState, params: PyTree, inputs: ActInputs) -> Decision:
        noise, setting = inputs.noise, self.setting
        if noise is None:
            propose = make_propose(self.shared.proposals, setting)
            chunks = (inputs.proposed or propose(params, inputs))[PROPOSALS]
        else:
            noise = noise if noise.ndim == 4 else noise[:, None]
            chunks = decode_candidates(setting, params, noise, inputs.obs)
        rows, count = chunks.shape[:2]
        flat = chunks.reshape(rows, count, -1)
        both = self._with_edits(state.editor, inputs.obs, flat)

        def value_fn(obs, flat):
            return self._value_of(state.critic, obs, flat)

        value = values_of(value_fn, inputs.obs, both)
        best = jnp.argmax(value, axis=1)
        highest = jnp.max(value, axis=1)
        unedited = value[:, :count]
        scalars = {
            "guide/candidate_gain": jnp.mean(highest - jnp.mean(unedited, axis=1)),
            "guide/edit_gain": jnp.mean(highest - jnp.max(unedited, axis=1)),
            "guide/edited_share": jnp.mean(best >= count, dtype=jnp.float32),
        }
        chunk = both[jnp.arange(rows), best].reshape(rows, *setting.chunk_shape)
        return Decision(chunk, {}, scalars)

    def update(
        self, state: EditState, params: PyTree, batches: Transition, key, env_steps
    ) -> tuple[EditState, Metrics]:
        del params, env_steps  # nothing is decoded
        batches = side_by_side(batches, self.shared.groups)
        batches, utd = blur(key, batches, self.shared.action_noise), len(batches.reward)
        _, subset_key = jax.random.split(key)  # the first half drew the batches
        pick_key = jax.random.fold_in(key, PICK_KEY)
        own = tuple(jax.random.split(use, utd) for use in (subset_key, pick_key))
        inputs = (self._learning, state, batches, own, key, self._step)
        return td.training_call(*inputs, pairs=self.shared.random_pair)

    def value(self, state: EditState, obs: jax.Array, chunk: jax.Array) -> Value:
        flat = chunk.reshape(len(chunk), -1)
        q = self.critic.q(self._guiding(state.critic), obs, flat)
        combined = self._reduce(q)
        return Value(q, combined, jnp.ones_like(combined))

    def _step(self, now: EditState, judge: Critic, batch: Transition, own):
        """A gradient step of the critics, then one of the editor on what they learned.

        Targets look at edits of the current network: the target critics, which choose
        among them, are slow already, and an edit is bounded and has its unedited
        proposal beside it, so that a second, slower network would add only its lag.
        """
        subset_key, pick_key = own
        shared, average = self.shared, self.setting.average
        chunks = draw_subset(shared.proposals, subset_key, batch)
        both = self._with_edits(now.editor, batch.next_obs, chunks)
        where = (judge, now.critic.target_params, batch, both)
        y = target_over_proposals(*where, shared.proposals.backup)
        learning = (self._learning, self._optimizer, now.critic, batch, y)
        critic, metrics = td.gradient_step(*learning, shared.tau, average)

        # Proposals are known at the next observation: there one of each row is edited.
        picked = jax.random.randint(pick_key, (len(chunks),), 0, chunks.shape[1])
        one = chunks[jnp.arange(len(chunks)), picked]
        counts = (batch.discount > 0).astype(jnp.float32)

        def loss_fn(editor):
            move, edited = self._edit(editor, batch.next_obs, one)
            value = self._value_of(critic, batch.next_obs, edited)
            loss = edit_loss(value, move, counts, self.options.penalty)
            # of all rows, also of the few after a done: so devices can average it
            length = jnp.mean(jnp.linalg.norm(edited - one, axis=-1))
            return loss, {"train/actor_loss": loss, "train/edit_length": length}

        grads, scalars = jax.grad(loss_fn, has_aux=True)(now.editor)
        grads = average(grads)
        updates, opt_state = self._optimizer.update(grads, now.editor_opt_state)
        editor = optax.apply_updates(now.editor, updates)
        now = now._replace(critic=critic, editor=editor, editor_opt_state=opt_state)
        return now, metrics | average(scalars)

    def _edit(self, editor: PyTree, obs: jax.Array, flat: jax.Array):
        """The move `[n, Ta*Da]` of each chunk, and the chunk after it, clipped."""
        move = self.options.max_step * jnp.tanh(self.network.apply(editor, obs, flat))
        # What lies beyond [-1, 1], as some policies' chunks do, is moved no further.
        inside = jnp.clip(flat, -1.0, 1.0)
        return move, flat + (jnp.clip(inside + move, -1.0, 1.0) - inside)

    def _with_edits(self, editor: PyTree, obs: jax.Array, flat: jax.Array) -> jax.Array:
        """Returns chunks `[B, C, Ta*Da]` with an edited one of each behind them."""
        rows = flat.reshape(-1, flat.shape[-1])
        _, edited = self._edit(editor, jnp.repeat(obs, flat.shape[1], axis=0), rows)
        return jnp.concatenate([flat, edited.reshape(flat.shape)], axis=1)

    def _value_of(self, critic: CriticState, obs: jax.Array, flat: jax.Array):
        return self._reduce(self.critic.q(self._guiding(critic), obs, flat))

    @property
    def _learning(self) -> Critic:
        """The critics as they learn."""
        return in_groups(self.critic, self.shared.groups)

    @property
    def _optimizer(self):
        return td.make_optimizer(self.shared.learning_rate)

    @property
    def _guiding(self):
        return GUIDING_CRITICS[self.shared.critics]

    @property
    def _reduce(self):
        return REDUCERS[self.shared.guidance.reduce]
