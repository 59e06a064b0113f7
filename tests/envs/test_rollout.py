"""Episode book-keeping against a scripted environment, worked by hand."""

import numpy as np
import pytest

from dynvgd_jax.core.types import ChunkResult
from dynvgd_jax.envs.base import EnvSizes
from dynvgd_jax.envs.rollout import (
    EVAL_STREAM,
    TRAIN_STREAM,
    Collector,
    chunk_reward,
    episode_seed,
    evaluate,
    evaluation_seeds,
    max_chunks,
)
from tests.support.reach import LazyEnv, ReachEnv


class ScriptedEnv(LazyEnv):
    """Successes per control step come from a table; obs tells seed and chunk."""

    def __init__(self, num_envs, success, max_steps, fault_at=None):
        self.num_envs, self.success = num_envs, np.asarray(success, bool)
        self.sizes, self.fault_at = EnvSizes(2, 1, 2, max_steps), fault_at
        self.seed = np.zeros(num_envs, int)
        self.chunk = np.zeros(num_envs, int)
        self.stepped = []

    def _obs(self, indices):
        return np.stack([self.seed[indices], self.chunk[indices]], 1).astype(np.float32)

    def reset(self, indices, seeds):
        self.seed[indices], self.chunk[indices] = seeds, 0
        return self._obs(indices)

    def step(self, indices, actions):
        self.stepped.append(list(indices))
        success = self.success[self.chunk[indices]]
        fault = self.chunk[indices] == self.fault_at
        self.chunk[indices] += 1
        return ChunkResult(
            self._obs(indices), success.astype(np.float32), success, fault
        )

    def close(self):
        pass


def still(obs, seeds, chunk_index):
    return np.zeros((len(obs), 2, 1), np.float32)


def test_chunk_reward_by_hand():
    # (0-1) + (1-1) = -1; both successful: 0; none: -2.
    reward = np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    np.testing.assert_array_equal(chunk_reward(reward, 1.0), [-1.0, 0.0, -2.0])
    assert chunk_reward(reward, 1.0).dtype == np.float32


@pytest.mark.parametrize(
    ("table", "any_step", "whole_chunk", "episode_return"),
    [
        ([[0, 0], [0, 0], [0, 0]], False, False, -6),
        ([[0, 0], [0, 1], [1, 0]], True, False, -4),  # two in a row, never a chunk
        ([[0, 0], [1, 1], [0, 0]], True, True, -4),
    ],
)
def test_both_definitions_of_success(table, any_step, whole_chunk, episode_return):
    env = ScriptedEnv(1, table, max_steps=6)
    (result,) = evaluate(env, still, np.array([5], np.uint32))
    assert result == (5, any_step, whole_chunk, episode_return, 6, False)


def test_time_limit_inside_a_chunk_lets_the_chunk_finish():
    env = ScriptedEnv(1, [[0, 0]] * 3, max_steps=5)
    assert max_chunks(env) == 3
    (result,) = evaluate(env, still, np.array([5], np.uint32))
    assert result.length == 6


def test_a_fault_fails_the_episode_and_leaves_the_others_alone():
    env = ScriptedEnv(2, [[1, 1]] * 3, max_steps=6)
    env.fault_at = 1
    original = env.step

    def only_first_faults(indices, actions):
        result = original(indices, actions)
        return result._replace(fault=result.fault & (np.asarray(indices) == 0))

    env.step = only_first_faults
    broken, sound = evaluate(env, still, np.array([5, 6], np.uint32))
    assert (broken.fault, broken.success_chunk, broken.length) == (True, False, 4)
    assert (sound.fault, sound.success_chunk, sound.length) == (False, True, 6)
    assert env.stepped == [[0, 1], [0, 1], [1]]


def test_last_wave_is_padded_but_not_executed():
    env = ScriptedEnv(3, [[0, 0]], max_steps=2)
    rows = []

    def act(obs, seeds, chunk_index):
        rows.append(len(obs))
        return still(obs, seeds, chunk_index)

    results = evaluate(env, act, np.arange(4, dtype=np.uint32))
    assert [r.seed for r in results] == [0, 1, 2, 3]
    assert rows == [3, 3] and env.stepped == [[0, 1, 2], [0]]


def test_results_do_not_depend_on_how_many_run_side_by_side():
    def act(obs, seeds, chunk_index):
        way = obs[:, 2:] - obs[:, :2]
        noise = np.stack(
            [
                np.random.default_rng([s, c]).normal(size=2)
                for s, c in zip(seeds, chunk_index, strict=True)
            ]
        )
        return np.repeat((way + noise)[:, None], 4, axis=1)

    seeds = evaluation_seeds(seed=3, episodes=11)
    assert len(set(seeds)) == 11
    two, five, many = (evaluate(ReachEnv(n), act, seeds) for n in (2, 5, 11))
    assert two == five == many


def test_training_and_evaluation_never_share_an_episode():
    train = {episode_seed(TRAIN_STREAM, 0, i) for i in range(1000)}
    held_out = {episode_seed(EVAL_STREAM, 0, i) for i in range(1000)}
    assert len(train) == len(held_out) == 1000 and not train & held_out
    assert max(train | held_out) < 2**31


def test_collector_stores_terminal_observation_and_resets():
    env = ScriptedEnv(2, [[0, 1], [1, 1]], max_steps=4)
    collector = Collector(env, run_seed=7, reward_offset=1.0)
    seeds = [episode_seed(TRAIN_STREAM, 7, i) for i in range(4)]
    np.testing.assert_array_equal(
        collector.obs, np.float32([[s, 0] for s in seeds[:2]])
    )
    chunks = np.full((2, 2, 1), 0.5, np.float32)

    first, ended, ends = collector.step(chunks)
    assert not ended and not ends.ended.any() and not first.ended.any()
    np.testing.assert_array_equal(first.discount, [1, 1])
    np.testing.assert_array_equal(first.reward, [-1, -1])
    np.testing.assert_array_equal(first.action, [[0.5, 0.5], [0.5, 0.5]])
    np.testing.assert_array_equal(first.next_obs[:, 1], [1, 1])

    second, ended, ends = collector.step(chunks)
    np.testing.assert_array_equal(second.discount, [0, 0])
    np.testing.assert_array_equal(second.ended, [1, 1])
    np.testing.assert_array_equal(second.reward, [0, 0])
    # The stored next observation is the terminal one (chunk 2), the books go on with
    # the next two episodes.
    np.testing.assert_array_equal(second.next_obs[:, 1], [2, 2])
    np.testing.assert_array_equal(
        collector.obs, np.float32([[s, 0] for s in seeds[2:]])
    )
    assert [(r.seed, r.length, r.success_chunk) for r in ended] == [
        (seeds[0], 4, True),
        (seeds[1], 4, True),
    ]
    np.testing.assert_array_equal(collector.books.chunks, [0, 0])
    # Of the episodes that ended, not of those that began.
    np.testing.assert_array_equal(ends.ended, [1, 1])
    np.testing.assert_array_equal(ends.episode, [0, 1])
    np.testing.assert_array_equal(ends.success_chunk, [1, 1])
    np.testing.assert_array_equal(ends.episode_return, [-1, -1])
    for transition in (first, second):
        kinds = {name: leaf.dtype.name for name, leaf in transition._asdict().items()
                 if name not in ("extras", "next_extras", "followed_by")}  # fmt: skip
        assert kinds.pop("ended") == "bool" and set(kinds.values()) == {"float32"}
    assert (ends.ended.dtype, ends.success_chunk.dtype) == (bool, bool)
    assert (ends.episode.dtype, ends.episode_return.dtype) == (np.int32, np.float32)


def test_what_a_method_stores_beside_stays_with_its_transition():
    env = ScriptedEnv(2, [[0, 0]] * 3, max_steps=6)
    collector = Collector(env, run_seed=7, reward_offset=1.0)
    chunks = np.zeros((2, 2, 1), np.float32)
    for number in range(3):
        extras = {"noise": np.full((2, 5), number), "kept": np.array([True, False])}
        collector.step_async(chunks, extras)
        transition, _, _ = collector.step_wait()
        np.testing.assert_array_equal(transition.extras["noise"], extras["noise"])
        np.testing.assert_array_equal(transition.extras["kept"], extras["kept"])
    assert collector.step(chunks)[0].extras == {}


def test_collector_ends_an_episode_at_a_fault():
    env = ScriptedEnv(1, [[1, 1], [1, 1], [1, 1]], max_steps=6, fault_at=0)
    collector = Collector(env, run_seed=0, reward_offset=1.0)
    transition, (result,), ends = collector.step(np.zeros((1, 2, 1)))
    assert transition.discount[0] == 0 and transition.ended[0]
    assert result.fault and not result.success_any
    assert ends.ended[0] and not ends.success_chunk[0]
    assert collector.books.episode[0] == 1


@pytest.mark.parametrize(
    ("fault_at", "options", "reward"),
    [
        # Three chunks of two steps, each of which costs 1 where it earns nothing. The
        # broken chunk earns [1, 1]: nothing is lost in it, and after it two chunks of
        # -2 each are missed,
        (0, {}, -4.0),
        (0, {"gamma": 0.5}, -2 * (0.5 + 0.25)),
        # without end where targets look past the time limit: -2 (1/2 + 1/4 + ...),
        (0, {"gamma": 0.5, "bootstrap_at_time_limit": True}, -2.0),
        # which at gamma = 1 no number could say: those of the episode.
        (0, {"bootstrap_at_time_limit": True}, -4.0),
        (1, {"gamma": 0.5}, -2 * 0.5),
        (1, {"gamma": 0.5, "bootstrap_at_time_limit": True}, -2.0),
        # After the last chunk nothing is missed, but beyond the limit.
        (2, {"gamma": 0.5}, 0.0),
        (2, {}, 0.0),
        (2, {"gamma": 0.5, "bootstrap_at_time_limit": True}, -2.0),
        # Half the offset, half the loss: [1, 1] - 1/2 earns 1, two chunks of -1 each.
        (0, {"reward_offset": 0.5}, 1.0 - 2.0),
        (0, {"reward_offset": 0.0, "gamma": 0.5}, 2.0),
    ],
)
def test_a_broken_chunk_is_stored_with_the_worst_return(fault_at, options, reward):
    env = ScriptedEnv(2, [[1, 1], [1, 1], [1, 1]], max_steps=6, fault_at=fault_at)
    original = env.step

    def only_first_faults(indices, actions):
        result = original(indices, actions)
        return result._replace(fault=result.fault & (np.asarray(indices) == 0))

    env.step = only_first_faults
    options = {"reward_offset": 1.0} | options
    collector = Collector(env, run_seed=0, **options)
    sound = 2 * (1 - options["reward_offset"])  # of a chunk [1, 1]
    for chunk in range(fault_at + 1):
        transition, ended, _ = collector.step(np.zeros((2, 2, 1)))
        expected = reward if chunk == fault_at else sound
        np.testing.assert_allclose(transition.reward, [expected, sound], rtol=1e-6)
    # Nothing follows it; what was earned stays in the books.
    assert transition.discount[0] == 0 and transition.ended[0]
    assert ended[0].fault and ended[0].episode_return == sound * (fault_at + 1)
    assert transition.reward.dtype == np.float32


@pytest.mark.parametrize("bootstrap", [False, True])
@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_no_sound_episode_of_failures_is_worth_less_than_a_broken_one(gamma, bootstrap):
    """Its return from the broken chunk on is that of going on without success."""
    options = {"gamma": gamma, "bootstrap_at_time_limit": bootstrap}
    returns = {}
    for fault_at in (None, 1):
        env = ScriptedEnv(1, [[0, 0]] * 4, max_steps=8, fault_at=fault_at)
        collector = Collector(env, 0, reward_offset=1.0, **options)
        total, factor = 0.0, 1.0
        for _ in range(4):
            transition, ended, _ = collector.step(np.zeros((1, 2, 1)))
            total += factor * transition.reward[0]
            factor *= gamma * transition.discount[0]
            if ended:
                break
        if bootstrap and gamma < 1:
            total += factor * -2 / (1 - gamma)  # what follows the time limit
        returns[fault_at] = total
    assert returns[1] == pytest.approx(returns[None], rel=1e-5)


def test_episode_seeds_do_not_depend_on_the_number_of_environments():
    played = {}
    for num_envs in (1, 2, 4):
        env = ScriptedEnv(num_envs, [[0, 0]], max_steps=2)
        collector = Collector(env, run_seed=1, reward_offset=1.0)
        seeds = []
        for _ in range(8 // num_envs):
            seeds += [r.seed for r in collector.step(np.zeros((num_envs, 2, 1)))[1]]
        played[num_envs] = seeds
    assert played[1] == played[2] == played[4]


@pytest.mark.parametrize("end_at_success", [False, True])
def test_success_ends_a_training_episode_only_where_it_shall(end_at_success):
    env = ScriptedEnv(1, [[0, 1], [1, 1], [1, 1]], max_steps=6)
    collector = Collector(env, 0, reward_offset=1.0, end_at_success=end_at_success)
    steps = [collector.step(np.zeros((1, 2, 1), np.float32)) for _ in range(3)]
    goes_on = [transition.discount[0] for transition, *_ in steps]
    # Half a chunk of success ends nothing; the second chunk is wholly successful.
    assert goes_on == ([1, 0, 1] if end_at_success else [1, 1, 0])
    ended = [transition.ended[0] for transition, *_ in steps]
    assert ended == ([0, 1, 0] if end_at_success else [0, 0, 1])
    (ended,) = steps[1 if end_at_success else 2][1]
    assert ended.success_chunk and ended.length == (4 if end_at_success else 6)
    assert ended.episode_return == -1.0  # nothing is lost after success


def test_a_time_limit_may_be_no_end_for_targets_but_is_one_for_the_episode():
    env = ScriptedEnv(2, [[0, 0], [0, 0]], max_steps=4)
    collector = Collector(env, 0, 1.0, bootstrap_at_time_limit=True)
    chunk = np.zeros((2, 2, 1), np.float32)
    for episodes in (2, 4):
        first, none, _ = collector.step(chunk)
        last, ended, _ = collector.step(chunk)
        assert not none and len(ended) == 2
        np.testing.assert_array_equal(collector.books.episode, [episodes, episodes + 1])
        np.testing.assert_array_equal([first.discount, last.discount], 1)
        # Windows of several chunks do not look past it.
        assert not first.ended.any() and last.ended.all()
        np.testing.assert_array_equal(last.next_obs[:, 1], [2, 2])
        np.testing.assert_array_equal(collector.obs[:, 1], [0, 0])
    # Success and faults remain ends.
    for options in ({"success": [[1, 1]]}, {"success": [[0, 0]], "fault_at": 0}):
        env = ScriptedEnv(1, max_steps=2, **options)
        collector = Collector(
            env, 0, 1.0, end_at_success=True, bootstrap_at_time_limit=True
        )
        transition = collector.step(np.zeros((1, 2, 1)))[0]
        assert transition.discount[0] == 0 and transition.ended[0]


class FallingEnv(ScriptedEnv):
    """Two control steps a chunk, reward 3 each; a fall after `falls` of them."""

    def __init__(self, num_envs, falls, max_steps):
        super().__init__(num_envs, [[0, 0]] * max_steps, max_steps)
        self.falls = falls

    def step(self, indices, actions):
        left = self.falls - 2 * self.chunk[indices]
        steps = np.minimum(left, 2).astype(np.int32)
        result = super().step(indices, actions)
        reward = 3.0 * (np.arange(2) < steps[:, None])
        return result._replace(
            reward=reward.astype(np.float32), terminated=left <= 2, steps=steps
        )


@pytest.mark.parametrize(
    ("falls", "length", "total"), [(3, 3, 6), (4, 4, 8), (9, 6, 12)]
)
def test_an_episode_that_its_task_ends(falls, length, total):
    """Of a fall within a chunk the rest is not executed and costs no offset."""
    env = FallingEnv(2, falls, max_steps=6)
    results = evaluate(env, still, np.array([5, 6], np.uint32), reward_offset=1.0)
    for result in results:
        assert (result.length, result.episode_return) == (length, total)
        assert not result.fault and not result.success_any
    assert len(env.stepped) == -(-length // 2)


@pytest.mark.parametrize("past_limit", [False, True])
def test_a_fall_is_the_end_and_the_time_limit_may_not_be(past_limit):
    chunks = np.zeros((1, 2, 1))
    options = {"bootstrap_at_time_limit": past_limit}
    collector = Collector(FallingEnv(1, 3, 6), 0, 1.0, **options)
    first, nothing, _ = collector.step(chunks)
    last, ended, ends = collector.step(chunks)
    assert (first.discount[0], first.ended[0], first.reward[0]) == (1, False, 4)
    # one control step of 3, less the offset; what it led to, not the next episode
    assert (last.discount[0], last.ended[0], last.reward[0]) == (0, True, 2)
    np.testing.assert_array_equal(last.next_obs[0, 1], 2)
    assert collector.obs[0, 1] == 0 and not nothing
    assert (ended[0].length, ended[0].episode_return) == (3, 6)
    assert ends.episode_return[0] == 6
    collector = Collector(FallingEnv(1, 99, 4), 0, 1.0, **options)
    _, (last, _, _) = collector.step(chunks), collector.step(chunks)
    assert (last.discount[0], last.ended[0]) == (float(past_limit), True)


def test_a_chunk_that_ends_early_succeeds_by_what_was_executed():
    def result(success, steps):
        success = np.array(success, bool)
        reward = np.zeros(success.shape, np.float32)
        return ChunkResult(None, reward, success, None, None, steps).whole_success

    rows = [[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 0]]
    np.testing.assert_array_equal(result(rows, None), [True, False, False, False])
    steps = np.array([3, 1, 2, 0], np.int32)
    np.testing.assert_array_equal(result(rows, steps), [True, True, False, False])
