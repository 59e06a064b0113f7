"""The golden ticket: which one is best, what an episode's end teaches, who plays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynvgd_jax import load_agent
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.types import EpisodeEnds
from dynvgd_jax.diffusion.base import sample
from dynvgd_jax.steering.golden_ticket import TicketState, best_ticket, golden_ticket
from dynvgd_jax.training.loop import train
from tests.steering import toy
from tests.support.reach import PowerCutError, ReachEnv, breaking
from tests.support.same_run import assert_equal_runs, scalars
from tests.support.tiny_run import VECTOR_STEP, tiny

pytestmark = pytest.mark.usefixtures("shared_programs")

TICKETS = 3


def method(**changes):
    setting = toy.setting()
    config = setting.config
    config.first_rollout_env_steps = 0
    config.golden_ticket.num_tickets = TICKETS
    config.update_from_flattened_dict(changes)
    return golden_ticket(setting)


def counts(episodes, successes, total_return):
    return TicketState(
        tickets=jnp.zeros((len(episodes), *toy.CHUNK)),
        episodes=jnp.int32(episodes),
        successes=jnp.int32(successes),
        total_return=jnp.float32(total_return),
        num_updates=jnp.int32(0),
    )


@pytest.mark.parametrize(
    ("state", "rates", "best"),
    [
        # Nobody has played: the first.
        (([0, 0, 0], [0, 0, 0], [0, 0, 0]), [-1, -1, -1], 0),
        # One that has failed is better than one that has not played.
        (([0, 3, 0], [0, 0, 0], [0, -9, 0]), [-1, 0, -1], 1),
        # The rate decides, not the number of successes, nor the return.
        (([8, 2, 4], [5, 2, 3], [-1, -9, -4]), [0.625, 1, 0.75], 1),
        # Of equal rates 1/2 the mean return: -5, -6, -3; that of the third.
        (([2, 4, 4], [1, 2, 2], [-10, -24, -12]), [0.5, 0.5, 0.5], 2),
        # All equal: the lower number. The unplayed one's return of 0 does not count.
        (([0, 2, 4], [0, 1, 2], [0, -6, -12]), [-1, 0.5, 0.5], 1),
    ],
)
def test_best_ticket_by_hand(state, rates, best):
    rate, found = best_ticket(counts(*state))
    np.testing.assert_allclose(rate, rates)
    assert int(found) == best


def test_ended_episodes_count_for_their_ticket():
    # Episodes 7, 4, 5, 3, 1 play the tickets 1, 1, 2, 0, 1; 5 and 1 go on.
    ends = EpisodeEnds(
        ended=np.array([1, 1, 0, 1, 0], bool),
        episode=np.int32([7, 4, 5, 3, 1]),
        success_chunk=np.array([1, 1, 1, 0, 1], bool),
        episode_return=np.float32([-2, -3, -50, -8, -60]),
        seed=np.zeros(5, np.uint32),
        chunks=np.zeros(5, np.int32),
    )
    before = counts([1, 2, 3], [0, 1, 0], [-9, -4, -30])
    after = jax.jit(method().observe)(before, ends)
    np.testing.assert_array_equal(after.episodes, [2, 4, 3])
    np.testing.assert_array_equal(after.successes, [0, 3, 0])
    np.testing.assert_allclose(after.total_return, [-17, -9, -30])
    np.testing.assert_array_equal(after.tickets, before.tickets)
    assert after.num_updates == 0


@pytest.mark.parametrize("kind", ["randn", "tanh_randn"])
def test_training_takes_turns_and_evaluation_plays_the_best(kind):
    own = method(acting_noise=kind)
    state = own.init(jax.random.key(3))
    assert (np.abs(state.tickets).max() < 1) == (kind == "tanh_randn")
    assert state.tickets.shape == (TICKETS, *toy.CHUNK)
    best = 2
    state = state._replace(
        episodes=jnp.int32([2, 2, 2]), successes=jnp.int32([0, 1, 2])
    )
    params = toy.to_jax(toy.weights())
    episodes = np.int32([4, 0, 2, 5])  # tickets 1, 0, 2, 2
    obs = jax.random.normal(jax.random.key(1), (4, toy.OBS_DIM))
    inputs = toy.inputs(obs, None)._replace(episode=episodes, evaluating=False)
    act = jax.jit(own.act)
    plain = jax.jit(lambda *a: sample(toy.setting().denoiser, *a))
    trained = act(state, params, inputs)
    expected = plain(params, state.tickets[episodes % TICKETS], obs)
    np.testing.assert_allclose(trained.chunk, expected, atol=2e-6)
    # Whatever the episode and its chunk: the same noise, in an evaluation the best.
    evaluated = act(state, params, inputs._replace(evaluating=True))
    noise = jnp.broadcast_to(state.tickets[best], (4, *toy.CHUNK))
    np.testing.assert_allclose(evaluated.chunk, plain(params, noise, obs), atol=2e-6)
    assert np.abs(evaluated.chunk[:2] - trained.chunk[:2]).max() > 1e-3
    for decision in (trained, evaluated):
        assert decision.metrics["guide/ticket"] == best
        assert decision.metrics["guide/ticket_success_rate"] == 1
        assert decision.metrics["guide/tickets_tried"] == 1
        assert decision.extras == {}


def test_it_trains_without_gradients_and_has_no_critics():
    own = method()
    assert own.trains and own.update is None and own.value is None
    assert own.candidates == 1 and own.extras == {}


def test_what_it_has_no_use_for_is_refused():
    with pytest.raises(UserError, match="first_rollout_env_steps: found 8, expected 0"):
        method(first_rollout_env_steps=8)
    state = method().init(jax.random.key(0))
    noise = jnp.zeros((1, *toy.CHUNK))
    with pytest.raises(UserError, match="acts from its own noise"):
        method().act(state, None, toy.inputs(jnp.zeros((1, toy.OBS_DIM)), noise))


class MostlyOneTicket(ReachEnv):
    """Succeeds where the actions' mean is above a threshold.

    The policy has random weights, so that its chunk is a function of the start noise
    that depends less on where the point is.
    """

    threshold = 0.0
    sizes = ReachEnv.sizes._replace(max_episode_env_steps=8)

    def step(self, indices, actions):
        result = super().step(indices, actions)
        golden = actions.mean(axis=(1, 2)) > self.threshold
        success = np.repeat(golden[:, None], self.sizes.chunk_len, axis=1)
        return result._replace(reward=success.astype(np.float32), success=success)


def ticket_config(policy, **changes):
    changes = {
        "method": "golden_ticket",
        "golden_ticket.num_tickets": TICKETS,
        "first_rollout_env_steps": 0,
        "checkpoint.every_env_steps": 5 * VECTOR_STEP,
        "eval.noises": ("tanh_randn",),
    } | changes
    return tiny(policy, **changes)


@pytest.fixture(scope="module")
def golden_env(toy_policy, tmp_path_factory):
    """Environments in which one of seed 0's tickets mostly succeeds; its number."""
    folder = tmp_path_factory.mktemp("threshold") / "run"
    train(ticket_config(toy_policy), folder, make_env=MostlyOneTicket)
    agent = load_agent(folder)
    obs = ReachEnv(50).reset(np.arange(50), np.arange(50))
    means = []
    for ticket in agent.learner.tickets:
        noise = np.broadcast_to(ticket, (50, *ticket.shape))
        means.append(float(agent.policy.sample(obs, noise, 2).mean()))

    class Env(MostlyOneTicket):
        threshold = float(np.mean(np.sort(means)[-2:]))

    return Env, int(np.argmax(means))


@pytest.fixture(scope="module")
def whole(golden_env, toy_policy, tmp_path_factory):
    """(folder, evaluations) of a run there."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    found = train(ticket_config(toy_policy), folder, make_env=golden_env[0])
    return folder, found[0]


def test_a_run_finds_the_ticket_that_succeeds(golden_env, toy_policy, whole):
    folder, summaries = whole
    best, config = golden_env[1], ticket_config(toy_policy)
    learner = load_agent(folder).learner
    # 24 vector steps of 2 environments, episodes of 2 chunks: 24 episodes by turns.
    np.testing.assert_array_equal(learner.episodes, [8, 8, 8])
    rate, found = best_ticket(learner)
    assert int(found) == best and rate[best] > 0.6
    assert np.delete(rate, best).max() < rate[best] - 0.3
    assert summaries[-1].policy == "golden_ticket/tanh_randn"
    assert summaries[-1].success_chunk == config.eval.episodes
    # A saved agent acts from the best ticket, and from no other noise.
    agent, obs = load_agent(folder), np.zeros((2, 4), np.float32)
    noise = np.broadcast_to(learner.tickets[best], (2, 4, 2))
    np.testing.assert_allclose(
        agent.act(obs), agent.policy.sample(obs, noise, 2), atol=2e-6
    )
    with pytest.raises(UserError, match="acts from its own noise"):
        agent.act(obs, noise)
    with pytest.raises(UserError, match="'golden_ticket' weighs nothing"):
        agent.act(obs, td_error=1.0)
    words = "a run of method 'golden_ticket', whose state says nothing to method 'vgd'"
    with pytest.raises(UserError, match=words):
        load_agent(folder, {"method": "vgd"})
    points = scalars(folder)
    assert points["guide/ticket"][-1][1] == best
    for name in ("num_updates", "updates_per_control_step"):
        assert {value for _, value in points[f"train/{name}"]} == {0}
    # Nothing is drawn from a replay buffer, so none is kept.
    assert not (folder / "replay").exists()


def test_a_broken_run_goes_on_bit_for_bit(golden_env, toy_policy, whole, tmp_path):
    env, _ = golden_env
    config = ticket_config(toy_policy)

    class Breaking(env, breaking(2 + 2 + 17)):
        pass

    with pytest.raises(PowerCutError):
        train(config, tmp_path / "run", make_env=Breaking)
    train(config, tmp_path / "run", make_env=env, resume=True)
    assert_equal_runs(tmp_path / "run", whole[0])


@pytest.mark.slow
def test_two_seeds_have_their_own_tickets(golden_env, toy_policy, tmp_path):
    """And the first does what it does alone."""
    env, _ = golden_env
    config = ticket_config(toy_policy, num_seeds=2)
    train(config, tmp_path / "two", make_env=env)
    train(ticket_config(toy_policy), tmp_path / "alone", make_env=env)
    learners = [
        load_agent(tmp_path / name).learner
        for name in ("two/seed0", "two/seed1", "alone")
    ]
    np.testing.assert_array_equal(learners[0].tickets, learners[2].tickets)
    np.testing.assert_array_equal(learners[0].successes, learners[2].successes)
    np.testing.assert_allclose(
        learners[0].total_return, learners[2].total_return, rtol=1e-5
    )
    assert np.abs(learners[0].tickets - learners[1].tickets).max() > 0.1
    for learner in learners:
        np.testing.assert_array_equal(learner.episodes, [8, 8, 8])
