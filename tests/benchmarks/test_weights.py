"""Other weights of guidance: values worked by hand, and that they reach the decode."""

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import guidance, weights
from benchmarks.weights import WEIGHT_MIN, Seen
from dynvgd_jax.core.errors import UserError
from tests.support.reach import ReachEnv


def seen(q_fn=None, flat=((0.0, 0.0), (0.5, -0.5)), **changed):
    flat = jnp.array(flat)
    q_fn = q_fn or (lambda obs, flat: jnp.stack([flat[:, 0], 3.0 * flat[:, 0]]))
    obs = jnp.zeros((len(flat), 1))
    values = {
        "q": q_fn(obs, flat),
        "grad": jnp.array([[0.6, 0.8], [3.0, 4.0]]),  # norms 1 and 5
        "published": jnp.array([0.25, 0.75]),
        "lam": jnp.float32(0.5),
        "candidates": 1,
        "unsteered": lambda obs: jnp.full((len(obs), 2), 0.25),
    }
    return Seen(obs, flat, q_fn=q_fn, **(values | changed))


def test_shuffled_gives_each_environment_anothers():
    np.testing.assert_array_equal(weights.shuffled(seen()), [0.75, 0.25])
    # two candidates of each of two environments, row by row
    found = seen(published=jnp.array([0.1, 0.2, 0.3, 0.4]), candidates=2)
    np.testing.assert_allclose(weights.shuffled(found), [0.3, 0.4, 0.1, 0.2])
    with pytest.raises(UserError, match="weight=shuffled: found one environment"):
        weights.shuffled(seen(candidates=2))


def test_agreement_by_hand():
    # Two critics. The first action's gradients are equal; the second's (1, 0) and
    # (0, 1): mean (1/2, 1/2), squared 1/2; variance 1/2 a number, 1 in all, of the mean
    # 1/2: nothing is left. The third's (3, 0) and (1, 0): squared 4, variance 2, of the
    # mean 1: 3/4.
    grads = jnp.array([[[1.0, 1], [1, 0], [3, 0]], [[1, 1], [0, 1], [1, 0]]])
    found = weights.agreement_of(grads)
    np.testing.assert_allclose(found, [1.0, WEIGHT_MIN, 0.75], atol=1e-6)


def test_agreement_takes_each_critics_own_gradient():
    # gradients (1, 0) and (3, 0) everywhere
    np.testing.assert_allclose(weights.agreement(seen()), [0.75, 0.75], atol=1e-6)


def test_advantage_by_hand():
    # q (0, 0) less the reference's (1/4, 3/4): deviation of (-1/4, -3/4) is
    # sqrt(1/8); q (1/2, 3/2) less it: (1/4, 3/4), the same. A part of Q that depends on
    # the state alone changes nothing.
    expected = np.exp(-np.sqrt(1 / 8) / 2.0)
    found = weights.parse_weight("advantage:2")(seen())
    np.testing.assert_allclose(found, [expected] * 2, rtol=1e-6)

    def with_state(obs, flat):
        return jnp.stack([flat[:, 0] + 100.0, 3.0 * flat[:, 0] - 50.0])

    found = weights.parse_weight("advantage:2")(seen(with_state))
    np.testing.assert_allclose(found, [expected] * 2, rtol=1e-4)


def test_bounded_by_hand():
    # lambda |g| is 0.5 and 2.5: with at most 1 the first stays
    found = weights.parse_weight("bounded:1")(seen())
    np.testing.assert_allclose(found, [1.0, 0.4], rtol=1e-6)


def test_a_weight_that_would_weigh_nothing_is_refused(finished_run):
    def play(*variant):
        arguments = [str(finished_run), "--episodes=4", "--num_envs=2"]
        arguments += ["--variant", *variant]
        guidance.main(arguments, lambda agent, num_envs: ReachEnv(num_envs))

    with pytest.raises(UserError, match="weight=shuffled: no step is guided; give gui"):
        play("weight=shuffled", "guidance.scale=0")
    for text in ("5", "", "null"):
        with pytest.raises(UserError, match=r"weight: found .*, expected one of"):
            play(f"weight={text}", "guidance.scale=0.1")


@pytest.mark.parametrize("text", ["shuffle", "bounded", "bounded:-1", "agreement:2"])
def test_unknown_weights_are_named(text):
    with pytest.raises(UserError, match=f"weight: found '{text}', expected one of"):
        weights.parse_weight(text)


def test_a_variant_reaches_the_decode(finished_run, toy_config):
    """A bound that nothing meets is w = 1 with the clip; one that all meet is not."""
    scale = ["guidance.scale=0.5", "guidance.candidates=1"]
    variants = [
        [*scale, "guidance.beta=0.0"],
        [*scale, "weight=bounded:1e9"],
        [*scale, "weight=bounded:1e-3"],
    ]
    arguments = [str(finished_run), "--episodes=4", "--num_envs=2"]
    for variant in variants:
        arguments += ["--variant", *variant]
    moved = []

    def play(agent, env, seeds, label, original=guidance.play):
        won, means = original(agent, env, seeds, label)
        moved.append(means.get("guide/delta_norm"))
        return won, means

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guidance, "play", play)
        guidance.main(arguments, lambda agent, num_envs: ReachEnv(num_envs))
    assert moved[1] == moved[2]
    assert 0 < moved[3] <= 1e-3 < moved[1]  # less where x0 is clipped
