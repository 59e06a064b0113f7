"""The golden ticket: the one start noise, kept for whole episodes, that succeeds most.

Nothing is learned. Training episodes take candidate noises by turns; an evaluation
plays the one whose episodes succeeded most often. What a learned method must beat.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import number
from dynvgd_jax.core.types import EpisodeEnds
from dynvgd_jax.diffusion.base import sample
from dynvgd_jax.steering.base import (
    ActInputs,
    Decision,
    Method,
    Setting,
)
from dynvgd_jax.steering.noise import START_NOISES

FIELDS = {"golden_ticket.num_tickets": number(1, 100_000)}


class TicketState(NamedTuple):
    """The candidates and what their episodes brought so far."""

    tickets: jax.Array  # [N, Ta, Da] float32, start noises
    episodes: jax.Array  # [N] int32, finished ones
    successes: jax.Array  # [N] int32, of a whole chunk
    total_return: jax.Array  # [N] float32, sum over the episodes
    num_updates: jax.Array  # [] int32, 0: there are no gradient steps


def golden_ticket(setting: Setting) -> Method:
    """Returns the method; tickets are of the kind `acting_noise`.

    Raises:
      UserError: there are first rollouts, which it has no use for.
    """
    first = setting.config.first_rollout_env_steps
    if first:
        raise UserError(
            f"config.first_rollout_env_steps: found {first}, expected 0 for method "
            "'golden_ticket', which tries its tickets from the start"
        )
    count = setting.config.golden_ticket.num_tickets
    make_noise = START_NOISES[setting.config.acting_noise]

    def init(key: jax.Array) -> TicketState:
        noise = jax.random.normal(key, (count, *setting.chunk_shape))
        zeros = jnp.zeros((count,), jnp.int32)
        return TicketState(
            tickets=make_noise(noise),
            episodes=zeros,
            successes=jnp.zeros_like(zeros),
            total_return=jnp.zeros((count,)),
            num_updates=jnp.zeros((), jnp.int32),
        )

    def act(state: TicketState, params, inputs: ActInputs) -> Decision:
        if inputs.noise is not None:
            raise UserError(
                "method 'golden_ticket' acts from its own noise, found another one; "
                "give none"
            )
        rate, best = best_ticket(state)
        ticket = jnp.where(inputs.evaluating, best, inputs.episode % count)
        shape = (len(inputs.obs), *setting.chunk_shape)
        noise = jnp.broadcast_to(state.tickets[ticket], shape)
        chunk = sample(setting.denoiser, params, noise, inputs.obs)
        metrics = {
            "guide/ticket": best.astype(jnp.float32),
            "guide/ticket_success_rate": rate[best],
            "guide/tickets_tried": jnp.mean(state.episodes > 0, dtype=jnp.float32),
        }
        return Decision(chunk, {}, metrics)

    def observe(state: TicketState, ends: EpisodeEnds) -> TicketState:
        ticket = ends.episode % count
        ended = ends.ended.astype(jnp.int32)
        success = ended * ends.success_chunk
        returns = ended * ends.episode_return
        return state._replace(
            episodes=state.episodes.at[ticket].add(ended),
            successes=state.successes.at[ticket].add(success),
            total_return=state.total_return.at[ticket].add(returns),
        )

    def explore(params, inputs: ActInputs) -> Decision:
        raise NotImplementedError("there are no first rollouts")

    return Method(init, act, explore, observe=observe, own_noise=True)


def best_ticket(state: TicketState) -> tuple[jax.Array, jax.Array]:
    """Returns each ticket's success rate `[N]` and the number of the best one.

    Of equal rates the higher mean return decides, then the lower number. A ticket
    without a finished episode is worse than any other.
    """
    tried = state.episodes > 0
    episodes = jnp.maximum(state.episodes, 1)
    rate = jnp.where(tried, state.successes / episodes, -1.0)
    mean_return = jnp.where(tried, state.total_return / episodes, -jnp.inf)
    mean_return = jnp.where(rate == jnp.max(rate), mean_return, -jnp.inf)
    return rate, jnp.argmax(mean_return)
