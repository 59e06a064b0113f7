"""What perfect critics would reach is known in simulations: "at best" must say it."""

import numpy as np
import pytest

from dynvgd_jax.audit.ceiling import (
    RATIOS,
    Reach,
    mean_reach,
    rank_correlation,
    reach_of_states,
)
from dynvgd_jax.audit.measure import across_states, spearman, within_states


def simulate(kind, sizes, share, ratio, rng):
    """Returns true values `[S, K]` and returns `[S, K, M]`.

    Args:
      kind: "normal", noise of another size in each state; "binary", success or not;
        "time", success at some time or a lost episode.
      sizes: states, chunks, repeats.
      share: of states in which the chunk matters at all.
      ratio: there, its variance in units of one return's.
      rng: of all draws.
    """
    states, chunks, repeats = sizes
    matters = rng.random((states, 1)) < share
    effect = np.sqrt(ratio) * rng.normal(size=(states, chunks)) * matters
    level = rng.normal(size=(states, 1))
    if kind == "normal":
        size = np.exp(0.7 * rng.normal(size=(states, 1)))
        true = size * effect + 5 * level
        noise = rng.normal(size=(*true.shape, repeats))
        return true, true[..., None] + size[..., None] * noise
    true = 1 / (1 + np.exp(-(1.5 * level + 1.8 * effect)))
    success = rng.random((*true.shape, repeats)) < true[..., None]
    if kind == "binary":
        return true, success.astype(float)
    times = rng.integers(5, 40, success.shape)
    return true, np.where(success, -(1 - 0.97**times) / 0.03, -(1 - 0.97**75) / 0.03)


GRID = [(1.0, 0.5), (1.0, 2.0), (1.0, 20.0), (0.5, 20.0), (0.2, 20.0), (0.2, 2.0)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["normal", "binary", "time"])
def test_at_best_is_what_perfect_critics_reach_over_a_grid_of_skills(kind):
    """64 states x 4 chunks x 8 repeats; each cell is the mean of 24 audits.

    The former estimate said 0.5 where 0.18 is true (a fifth of the states).
    """
    rng = np.random.default_rng(1)
    for share, ratio in GRID:
        found = []
        for _ in range(24):
            true, returns = simulate(kind, (64, 4, 8), share, ratio, rng)
            counted = np.ptp(returns.mean(-1), axis=1) > 0
            perfect = rank_correlation(true, returns.mean(-1))[counted].mean()
            said = mean_reach(reach_of_states(returns[counted], rng))
            found.append((perfect, said))
        perfect, said = np.mean(found, axis=0)
        assert abs(said - perfect) < 0.1, (share, ratio, perfect, said)


@pytest.mark.parametrize("skill", [0.0, 0.3, 0.6, 1.0])
def test_critics_of_known_skill_are_placed_below_the_perfect_ones(skill):
    """A critic that knows each true value up to noise of its own, and one that does not
    answer to the state at all: found over at best is what its skill is."""
    rng = np.random.default_rng(2)
    ratios = []
    for _ in range(12):
        true, returns = simulate("normal", (64, 4, 8), 0.5, 5.0, rng)
        spread = true.std(axis=1, keepdims=True)
        other = rng.normal(size=true.shape) * np.where(spread > 0, spread, 1)
        value = skill * (true - true.mean(1, keepdims=True))
        value = value + np.sqrt(1 - skill**2) * other
        found = rank_correlation(value, returns.mean(-1)).mean()
        ratios.append(found / mean_reach(reach_of_states(returns, rng)))
    # rank correlation of a normal pair of 4 with correlation 0.3, 0.6: 0.25, 0.51
    expected = {0.0: 0.0, 0.3: 0.25, 0.6: 0.51, 1.0: 1.0}[skill]
    assert abs(np.mean(ratios) - expected) < 0.12


@pytest.mark.slow
@pytest.mark.parametrize(("share", "ratio"), [(1.0, 1.0), (0.3, 10.0)])
def test_the_interval_holds_the_truth(share, ratio):
    rng = np.random.default_rng(3)
    audits = [simulate("time", (48, 4, 6), share, ratio, rng) for _ in range(12)]
    found = [within_states(true, returns, rng) for true, returns in audits]
    truth = np.mean([f["spearman"].value for f in found])  # of perfect critics
    held = [f["ceiling"].low <= truth <= f["ceiling"].high for f in found]
    assert sum(held) >= 9, (truth, [f["ceiling"] for f in found])


def test_chunks_that_make_no_difference_are_said_to():
    rng = np.random.default_rng(4)
    for kind in ("normal", "binary", "time"):
        said = []
        for _ in range(12):
            _, returns = simulate(kind, (64, 4, 8), 0.0, 1.0, rng)
            counted = returns[np.ptp(returns.mean(-1), axis=1) > 0]
            said.append(mean_reach(reach_of_states(counted, rng)))
        assert np.mean(said) < 0.12


def test_without_noise_perfect_critics_are_perfect():
    true = np.random.default_rng(0).normal(size=(20, 4))
    returns = np.repeat(true[..., None], 4, axis=-1)
    found = within_states(true, returns, np.random.default_rng(0))
    assert found["spearman"].value == 1 and found["ceiling"].value > 0.98


def test_both_sides_count_the_same_states():
    """Half the states are lost whatever is done, and count on neither side."""
    rng = np.random.default_rng(0)
    true, returns = simulate("normal", (40, 4, 4), 1.0, 5.0, rng)
    lost = np.concatenate([returns, np.full_like(returns, -300.0)])
    value = np.concatenate([true, rng.normal(size=true.shape)])
    found = within_states(value, lost, np.random.default_rng(1))
    alone = within_states(true, returns, np.random.default_rng(1))
    assert found == alone and found["states_counted"] == 40
    nothing = within_states(true, np.full_like(returns, -300.0), rng)
    assert nothing["states_counted"] == 0 and np.isnan(nothing["ceiling"].value)


def test_critics_that_are_constant_in_a_state_know_nothing_there():
    rng = np.random.default_rng(0)
    true, returns = simulate("normal", (40, 4, 8), 1.0, 50.0, rng)
    value = np.where(np.arange(40)[:, None] < 20, true, 0.0)
    found = within_states(value, returns, rng)
    assert 0.4 < found["spearman"].value < 0.55  # not 0.97
    assert found["states_counted"] == 40


def test_constant_halves_count_across_states_too():
    """One success in 20 states x 2 chunks x 2 repeats: no half agrees with another."""
    returns = np.zeros((20, 2, 2))
    returns[3, 0, 0] = 1
    value = np.random.default_rng(0).normal(size=(20, 2))
    found = across_states(value, returns, np.random.default_rng(0))
    assert found["ceiling"].value == 0
    returns[:] = 0
    found = across_states(value, returns, np.random.default_rng(0))
    assert np.isnan(found["ceiling"].value)


def test_rank_correlation_is_spearman_s_with_ties():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, (2, 50, 5)).astype(float)
    expected = [spearman(*pair) for pair in zip(a, b)]
    np.testing.assert_allclose(rank_correlation(a, b), np.nan_to_num(expected))


def test_the_mean_follows_the_states_that_matter():
    """By hand: two kinds of states, each certain of its ratio."""
    likelihood = np.zeros((4, len(RATIOS)))
    likelihood[:3, 0], likelihood[3, -1] = 1, 1
    correlation = np.zeros_like(likelihood)
    correlation[:, -1] = 0.8
    assert mean_reach(Reach(likelihood, correlation)) == pytest.approx(0.2)
