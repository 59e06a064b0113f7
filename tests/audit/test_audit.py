"""The audit where every value is known: it must find what is so, and only that."""

import zlib

import numpy as np
import pytest

from dynvgd_jax.audit import branch
from dynvgd_jax.audit.branch import policy_act
from dynvgd_jax.audit.measure import calibration, measure, within_states
from dynvgd_jax.audit.records import Plan, States
from tests.audit import analytic
from tests.audit.analytic import PushEnv

PLAN = Plan(
    states=24,
    chunks=6,
    repeats=8,
    lengths=(0.1, 0.3),
    seed=3,
    gamma=analytic.GAMMA,
    reward_offset=0.0,
)


def played(subject, plan=PLAN, num_envs=64):
    env = PushEnv(num_envs)
    reports = []
    act = policy_act(subject.decode, subject.noise, branch.EPISODE_NOISE)
    states = branch.collect_states(env, act, plan, lambda *r: reports.append(r))
    first = branch.draw_first_chunks(subject, states, plan, num_envs)
    act = policy_act(subject.decode, subject.noise, branch.FUTURE_NOISE)
    outcomes = branch.play(env, act, states, first, plan, lambda *r: reports.append(r))
    assert reports[-1] == (plan.rollouts(),)
    return states, first, outcomes


def audit(subject):
    states, first, outcomes = played(subject)
    return states, first, outcomes, measure(PLAN, first, outcomes, td_error=0.5)


@pytest.fixture(scope="module")
def exact():
    return audit(analytic.subject())


def test_the_toy_gradient_is_that_of_its_values():
    rng = np.random.default_rng(0)
    obs = np.concatenate([rng.normal(size=(5, 2)), rng.integers(1, 7, (5, 1))], 1)
    chunk = rng.normal(size=(5, analytic.CHUNK_LEN, 2))
    gradient = analytic.exact_gradient(obs, chunk)
    for j, i in np.ndindex(analytic.CHUNK_LEN, 2):
        up, down = chunk.copy(), chunk.copy()
        up[:, j, i] += 1e-4
        down[:, j, i] -= 1e-4
        slope = (analytic.exact_q(obs, up) - analytic.exact_q(obs, down)) / 2e-4
        np.testing.assert_allclose(gradient[:, j, i], slope, rtol=1e-6)


def test_exact_critics_are_found_exact(exact):
    found = exact[-1]
    assert found["across_states"]["spearman"].value > 0.98
    assert found["across_states"]["ceiling"].value > 0.98
    assert found["across_states"]["ceiling"].low > 0.95
    within = found["within_states"]
    assert within["states_counted"] == PLAN.states
    # A perfect critic reaches the ceiling and no more.
    assert within["spearman"].value > 0.5
    assert abs(within["spearman"].value - within["ceiling"].value) < 0.1
    assert within["ceiling"].low < within["ceiling"].value < within["ceiling"].high
    error = found["calibration"]
    assert error["bias"].low <= 0 <= error["bias"].high
    noise = exact[2].discounted[:, :, 0].std(axis=-1, ddof=1).mean()
    assert error["rms_error"].value < 0.2 * noise


def test_returns_are_those_of_the_formula(exact):
    """Every first chunk's mean return lies where exact Q puts it."""
    _, first, outcomes, _ = exact
    error = outcomes.discounted.mean(-1) - first.value
    sem = outcomes.discounted.std(axis=-1, ddof=1) / np.sqrt(PLAN.repeats)
    late = outcomes.length[..., 0] == 1  # the last chunk: nothing is left to chance
    assert late.any() and (outcomes.length == outcomes.length[..., :1]).all()
    np.testing.assert_allclose(error[late], 0, atol=1e-5)
    t = error[~late] / sem[~late]
    # Student's t with 7 degrees of freedom: standard deviation sqrt(7/5) = 1.18.
    assert abs(t.mean()) < 0.15 and 0.9 < t.std() < 1.5


def test_steps_along_the_true_gradient_gain_what_q_promises(exact):
    moves = {(m["kind"], m["length"]): m for m in exact[-1]["moves"]}
    for length in PLAN.lengths:
        along, control = moves["gradient", length], moves["random", length]
        assert along["true_gain"].low > 0 and along["over_random"].low > 0
        # Paired noise: each chunk gains, where independent noise would hide it.
        assert along["helped"] > 0.95
        assert control["helped"] < 0.7
        np.testing.assert_allclose(
            along["true_gain"].value, along["predicted_gain"].value, rtol=0.1
        )
        assert 0.9 * length < along["moved"] <= length + 1e-6
    assert (
        moves["gradient", 0.3]["true_gain"].value
        > 2 * moves["gradient", 0.1]["true_gain"].value
    )
    # this task knows no success, so there is none to gain
    assert np.isnan([m["success_gain"] for m in moves.values()]).all()
    guided = moves["guided", 0.0]  # here the same decode
    assert guided["true_gain"] == (0, 0, 0) and guided["moved"] == 0


@pytest.mark.slow
def test_shuffled_critics_are_found_useless(exact):
    """The right values and gradients, each at a chunk where it does not belong."""

    def shuffled(fn, first):
        flat = first.chunk.reshape(-1, *first.chunk.shape[3:])
        obs = np.repeat(states.obs, len(flat) // len(states.obs), 0)
        results = fn(obs, flat)

        def wrong(obs, chunk):
            rows = np.concatenate([obs, chunk.reshape(len(chunk), -1)], 1)
            picks = [zlib.crc32(np.float32(row).tobytes()) for row in rows]
            return results[np.array(picks) % len(results)]

        return wrong

    states, first, _, _ = exact
    wrong = (shuffled(f, first) for f in (analytic.exact_q, analytic.exact_gradient))
    found = audit(analytic.subject(*wrong))[-1]
    assert abs(found["within_states"]["spearman"].value) < 0.25
    assert abs(found["across_states"]["spearman"].value) < 0.4
    assert found["within_states"]["ceiling"].value > 0.5
    assert found["within_states"]["ceiling"].low > 0.3  # there is something to know
    along = next(m for m in found["moves"] if m["kind"] == "gradient")
    assert along["helped"] < 0.75
    assert found["calibration"]["rms_error"].low > 1.0


def test_a_flipped_gradient_harms():
    flip = analytic.subject(gradient=lambda *a: -analytic.exact_gradient(*a))
    for move in audit(flip)[-1]["moves"]:
        if move["kind"] == "gradient":
            assert move["true_gain"].high < 0 and move["harmed"] > 0.95


def test_guided_decode_is_measured_as_it_is():
    """A steered policy that pushes towards the origin gains; its noise is the same."""
    push = analytic.subject(steer=lambda o, n: 1.4 * analytic.decode(o, 0 * n))
    _, first, _, found = audit(push)
    guided = found["moves"][0]
    assert guided["kind"] == "guided" and guided["true_gain"].low > 0
    assert guided["moved"] == pytest.approx(first.moved[:, :, 1].mean())


@pytest.mark.slow
def test_bias_and_spread_are_found():
    def biased(obs, chunk):
        return analytic.exact_q(obs, chunk) - 5.0

    error = audit(analytic.subject(biased, spread=3.0))[-1]["calibration"]
    assert error["bias"].value == pytest.approx(-5, abs=0.2)
    assert error["rms_error"].value == pytest.approx(5, abs=0.2)
    assert error["centred_rms_error"].value < 0.5
    # ddof 1 of {-4.5, -1.5, 1.5, 4.5}: sqrt(45 / 3)
    assert error["rms_spread"] == pytest.approx(np.sqrt(15), rel=1e-6)
    assert error["td_error"] == 0.5


def test_numbers_do_not_depend_on_how_many_environments_play(exact):
    states, first, outcomes = played(analytic.subject(), num_envs=7)
    np.testing.assert_array_equal(states.chunk_index, exact[0].chunk_index)
    np.testing.assert_array_equal(first.chunk, exact[1].chunk)
    for a, b in zip(outcomes, exact[2]):
        np.testing.assert_array_equal(a, b)


def test_another_seed_is_another_audit(exact):
    states, _, outcomes = played(analytic.subject(), PLAN._replace(seed=4))
    assert not set(states.episode_seed) & set(exact[0].episode_seed)
    assert not np.array_equal(outcomes.discounted, exact[2].discounted)


class SuccessEnv(PushEnv):
    """Success from the third chunk on; episodes of even seed break in the fifth."""

    def reset(self, indices, seeds):
        if not hasattr(self, "seed"):
            self.seed = np.zeros(self.num_envs, int)
        self.seed[indices] = seeds
        return super().reset(indices, seeds)

    def step(self, indices, actions):
        executed = analytic.CHUNKS - self.to_go[indices]
        result = super().step(indices, actions)
        success = np.repeat((executed >= 2)[:, None], analytic.CHUNK_LEN, 1)
        fault = (executed == 4) & (self.seed[indices] % 2 == 0)
        return result._replace(success=success, fault=fault)

    def get_state(self):
        return super().get_state() | {"seed": self.seed.copy()}

    def set_state(self, state):
        super().set_state(state)
        self.seed = state["seed"].copy()


def test_states_come_from_before_success_and_faults_end_a_rollout():
    plan = PLAN._replace(states=300, chunks=2, repeats=2, lengths=(0.1,))
    subject, env = analytic.subject(), SuccessEnv(50)
    act = policy_act(subject.decode, subject.noise, branch.EPISODE_NOISE)
    states = branch.collect_states(env, act, plan, lambda *r: None)
    # Uniform over the chunks 0, 1 and 2, the last of which brings success.
    counts = np.bincount(states.chunk_index)
    assert len(counts) == 3 and (abs(counts - 100) < 4 * np.sqrt(300 * 2 / 9)).all()
    np.testing.assert_array_equal(
        states.hidden["to_go"], analytic.CHUNKS - states.chunk_index
    )
    np.testing.assert_array_equal(states.obs[:, :2], np.float32(states.hidden["x"]))
    few = States(
        states.obs[:8],
        {k: v[:8] for k, v in states.hidden.items()},
        states.chunk_index[:8],
        states.episode_seed[:8],
    )
    plan = plan._replace(states=8)
    first = branch.draw_first_chunks(subject, few, plan, 50)
    outcomes = branch.play(env, act, few, first, plan, lambda *r: None)
    even = few.episode_seed % 2 == 0
    assert even.any() and not even.all()
    np.testing.assert_array_equal(outcomes.fault.all(axis=(1, 2, 3)), even)
    np.testing.assert_array_equal(outcomes.fault.any(axis=(1, 2, 3)), even)
    left = np.where(even, 5, analytic.CHUNKS) - few.chunk_index
    np.testing.assert_array_equal(outcomes.length[:, 0, 0, 0], left)
    assert outcomes.success.all()
    plan = plan._replace(end_at_success=True)
    outcomes = branch.play(env, act, few, first, plan, lambda *r: None)
    np.testing.assert_array_equal(outcomes.length[:, 0, 0, 0], 3 - few.chunk_index)
    assert outcomes.success.all() and not outcomes.fault.any()


def test_past_the_time_limit_a_rollout_lasts_until_nothing_is_left_to_earn():
    plan = PLAN._replace(states=4, chunks=2, repeats=2, past_time_limit=True)
    subject, env = analytic.subject(), PushEnv(16)
    act = policy_act(subject.decode, subject.noise, branch.EPISODE_NOISE)
    states = branch.collect_states(env, act, plan, lambda *r: None)
    first = branch.draw_first_chunks(subject, states, plan, 16)
    states.hidden["to_go"][:] = 100  # the environment itself goes on
    for gamma, chunks in ((0.7, 13), (0.9, 24), (1.0, 24)):
        plan = plan._replace(gamma=gamma)
        outcomes = branch.play(env, act, states, first, plan, lambda *r: None)
        # 0.7^13 = 0.0097 is below a hundredth; 0.9^44 would be, after 7 episodes of 6.
        assert (outcomes.length == chunks).all()


def test_spread_and_weight_that_know_the_error_are_found_to():
    """Critics wrong by what their spread says, w falling with it; and a constant."""
    rng = np.random.default_rng(0)
    returns = rng.normal(size=(40, 3, 4)) * 1e-3
    size = rng.uniform(1, 5, (40, 3))
    wrong = np.where(np.arange(40)[:, None] % 2, size, -size) - 7.0
    q = wrong[..., None] + size[..., None] * analytic.SPREADS / 1.2910
    found = calibration(q, np.exp(-size), returns, 0.0, rng)
    # The mean of all errors is near -7, not exactly: ranks may swap here and there.
    assert found["spearman_spread_error"].low > 0.9
    assert found["spearman_weight_error"].high < -0.9
    for group in found["by_spread"]:
        assert group["centred_rms_error"] == pytest.approx(group["mean"], rel=0.15)
        assert group["count"] == 24


def test_a_calibrated_ensemble_s_spread_equals_its_error():
    """Errors drawn as wide as the spread says: ranks agree a little, sizes well."""
    rng = np.random.default_rng(0)
    shape = (400, 4)
    returns = rng.normal(size=(*shape, 4)) * 1e-3
    size = np.exp(rng.normal(0, 0.6, shape))
    wrong = size * rng.normal(size=shape)
    q = wrong[..., None] + size[..., None] * analytic.SPREADS / 1.2910
    found = calibration(q, np.exp(-size), returns, 0.0, rng)
    # |normal| has more spread than the sizes have: nothing like 1 can be reached.
    assert 0.4 < found["spearman_spread_error"].value < 0.6
    assert -0.6 < found["spearman_weight_error"].value < -0.4
    assert found["rms_error"].low < found["rms_spread"] < found["rms_error"].high
    by_spread = [group["rms_error"] for group in found["by_spread"]]
    assert by_spread == sorted(by_spread)


@pytest.mark.slow
def test_where_chunks_make_no_difference_the_ceiling_says_so():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(200, 1, 1))
    noise = rng.normal(size=(200, 4, 4))
    nothing = within_states(rng.normal(size=(200, 4)), states + noise, rng)
    assert nothing["ceiling"].low == 0 and nothing["ceiling"].value < 0.4
    # Perfect critics of twice as many states: their own correlation is the truth.
    states, noise, chunks = (
        rng.normal(size=(400, *shape)) for shape in ((1, 1), (4, 4), (4, 1))
    )
    something = within_states(chunks[..., 0], states + chunks + noise, rng)
    truth, ceiling = something["spearman"].value, something["ceiling"]
    assert ceiling.low < truth < ceiling.high
    assert something["ceiling"].low > 0.7
    assert something["ceiling"].low < something["spearman"].value + 0.1
