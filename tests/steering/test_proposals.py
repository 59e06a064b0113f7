"""Stored proposals: how they are drawn, chosen from, and looked at by targets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.types import Following
from dynvgd_jax.diffusion.base import sample
from dynvgd_jax.steering import proposals as own
from dynvgd_jax.steering import vgd
from dynvgd_jax.steering.base import ActInputs
from dynvgd_jax.steering.critics import td
from dynvgd_jax.steering.critics.mlp import CriticEnsemble, MeanTarget, mean_critic
from dynvgd_jax.steering.guidance import Guidance
from dynvgd_jax.steering.noise import start_noise
from dynvgd_jax.steering.proposals import PROPOSALS, Proposals
from tests.steering import reference, toy

BATCH, COUNT, NUM = 12, 5, 3
KEY = jax.random.key(3)
SEEDS = np.arange(4, dtype=np.uint32) + 7
INDEX = np.int32([0, 3, 1, 3])


def critic_of(reduce="mean", clip=0.0):
    ensemble = CriticEnsemble(num=NUM, width=8, depth=2)
    options = MeanTarget(reduce, clip)
    return mean_critic(ensemble, toy.OBS_DIM, toy.FLAT, options)


def chunks_of(seed, *shape):
    rng = np.random.default_rng(seed)
    return np.float32(rng.uniform(-1, 1, (*shape, *toy.CHUNK)))


def batch_of(seed, *shape, dtype="float32"):
    batch = toy.transitions(seed, *shape)
    chunks = chunks_of(seed + 100, *shape, COUNT).astype(dtype)
    return batch._replace(
        discount=0.9 * batch.discount, next_extras={PROPOSALS: chunks}
    )


def make(backup="max", reduce="mean", **changes):
    stored = Proposals(COUNT, ("tanh_randn", "randn"), backup)._replace(**changes)
    options = vgd.VgdOptions(
        guidance=Guidance(scale=0.0, reduce="mean"),
        learning_rate=1e-2,
        proposals=stored,
        random_pair=reduce == "random_pair",
    )
    critic = critic_of("min" if reduce == "random_pair" else reduce)
    return critic, vgd.make_vgd(options, critic, toy.setting())


def q_value(critic, obs, flat):
    """One critic's value of one chunk, in float64."""
    return reference.ensemble_q([critic], obs[None], np.asarray(flat)[None])[0, 0]


def inputs(proposed=None):
    obs = toy.transitions(1, 4).obs
    return ActInputs(obs, KEY, SEEDS, INDEX, proposed=proposed)


def test_candidates_have_their_kinds_in_equal_shares():
    options = Proposals(COUNT, ("tanh_randn", "randn"))
    noise = own.candidate_noise(options, KEY, SEEDS, INDEX, toy.CHUNK)
    plain = start_noise("randn", KEY, SEEDS, INDEX, (COUNT, *toy.CHUNK))
    np.testing.assert_array_equal(noise[:, :3], jnp.tanh(plain[:, :3]))
    np.testing.assert_array_equal(noise[:, 3:], plain[:, 3:])
    one = own.candidate_noise(
        Proposals(COUNT, ("randn",)), KEY, SEEDS, INDEX, toy.CHUNK
    )
    np.testing.assert_array_equal(one, plain)


def test_proposals_are_the_unguided_policys_chunks():
    _, method = make()
    params = toy.to_jax(toy.weights())
    given = inputs()
    found = method.propose(params, given)[PROPOSALS]
    options = Proposals(COUNT, ("tanh_randn", "randn"))
    noise = own.candidate_noise(options, KEY, SEEDS, INDEX, toy.CHUNK)
    for c in range(COUNT):
        one = sample(toy.setting().denoiser, params, noise[:, c], given.obs)
        np.testing.assert_allclose(found[:, c], one, atol=1e-6)
    # of an episode's chunk alone, whatever stands beside it
    some = ActInputs(given.obs[2:], KEY, SEEDS[2:], INDEX[2:])
    np.testing.assert_allclose(
        method.propose(params, some)[PROPOSALS], found[2:], atol=1e-6
    )
    (example,) = method.next_extras.values()
    assert example.shape == found.shape[1:] and example.dtype == np.float32


def test_acting_takes_the_best_of_what_was_proposed():
    critic, method = make()
    params = toy.to_jax(toy.weights())
    state = method.init(jax.random.key(0))
    given = chunks_of(5, 4, COUNT)
    decision = method.act(state, params, inputs({PROPOSALS: given}))
    obs = inputs().obs
    for row in range(4):
        values = [
            critic.q(state.critic.params, obs[row : row + 1], c.reshape(1, -1)).mean()
            for c in given[row]
        ]
        np.testing.assert_array_equal(
            decision.chunk[row], given[row][np.argmax(values)]
        )
    # an evaluation draws them itself: what training would have been given
    drawn = method.propose(params, inputs())
    alone = method.act(state, params, inputs()).chunk
    np.testing.assert_array_equal(alone, method.act(state, params, inputs(drawn)).chunk)


@pytest.mark.parametrize("backup", ["max", "mean"])
@pytest.mark.parametrize(("reduce", "clip"), [("mean", 0.0), ("min", 1.5)])
def test_targets_agree_with_float64(backup, reduce, clip):
    critic = critic_of(reduce, clip)
    params = critic.init(jax.random.key(1))
    batch = batch_of(0, BATCH)
    flat = batch.next_extras[PROPOSALS].reshape(BATCH, COUNT, -1)
    y = own.target_over_proposals(critic, params, batch, jnp.asarray(flat), backup)
    expected = reference_target(reference.unstack(params), batch, flat, backup, reduce)
    if clip:
        assert (np.abs(expected) > clip).any()
        # the mean is one of clipped targets
        expected = reference_target(
            reference.unstack(params), batch, flat, backup, reduce, clip
        )
    np.testing.assert_allclose(y, expected, atol=2e-6)


def reference_target(critics, batch, flat, backup, reduce, clip=np.inf):
    """By loops over rows and proposals, in float64."""
    y = np.zeros(BATCH)
    for b in range(BATCH):
        each = []
        for c in range(COUNT):
            q = [q_value(critic, batch.next_obs[b], flat[b, c]) for critic in critics]
            value = {"mean": np.mean, "min": np.min}[reduce](q)
            target = float(batch.reward[b]) + float(batch.discount[b]) * value
            each.append(np.clip(target, -clip, clip))
        y[b] = {"max": np.max, "mean": np.mean}[backup](each)
    return y


def test_targets_by_hand():
    """Two observations, two proposals, Q = the sum of the chunk's entries, +- 1."""

    def predict(params, obs, flat):
        del params, obs
        return flat.sum(axis=1)[None] + jnp.array([[1.0], [-1.0]])

    critic = critic_of("mean")._replace(predict=predict)
    batch = toy.transitions(0, 2)._replace(
        reward=np.float32([-4, -2]), discount=np.float32([0.5, 0])
    )
    flat = jnp.array([[[1.0, 2.0], [6.0, 4.0]], [[9.0, 9.0], [0.0, 0.0]]])
    found = {
        backup: own.target_over_proposals(critic, None, batch, flat, backup)
        for backup in ("max", "mean")
    }
    np.testing.assert_array_equal(found["max"], [1.0, -2.0])  # -4 + 10 / 2
    np.testing.assert_array_equal(found["mean"], [-0.75, -2.0])  # -4 + (3 + 10) / 4


def test_a_subset_has_different_proposals_of_its_own_row():
    options = Proposals(COUNT, subset=3)
    batch = batch_of(2, 400)
    chosen = np.asarray(own.draw_subset(options, KEY, batch))
    stored = batch.next_extras[PROPOSALS].reshape(400, COUNT, -1)
    assert chosen.shape == (400, 3, toy.FLAT)
    equal = (chosen[:, :, None] == stored[:, None]).all(axis=-1)  # [400, 3, 5]
    assert (equal.sum(axis=2) == 1).all() and (equal.sum(axis=1) <= 1).all()
    # each is drawn with chance 3/5: deviation of the count 10
    assert np.abs(equal.sum(axis=(0, 1)) - 240).max() < 50
    everyone = own.draw_subset(options._replace(subset=0), KEY, batch)
    np.testing.assert_array_equal(everyone, stored)


def test_a_guided_chunk_is_one_more_proposal_where_it_is_known():
    options, batch = Proposals(COUNT, subset=2), batch_of(2, 4)
    alone = own.draw_subset(options, KEY, batch)
    known = np.array([True, False, True, False])
    acted = Following(chunks_of(9, 4).reshape(4, -1), known)
    found = own.draw_subset(options, KEY, batch._replace(followed_by=acted))
    np.testing.assert_array_equal(found[:, :2], alone)
    np.testing.assert_array_equal(found[known, 2], acted.action[known])
    # elsewhere one of them stands there again, each as often: their mean is as it was
    drawn = [
        own.draw_subset(options, key, batch._replace(followed_by=acted))
        for key in jax.random.split(KEY, 200)
    ]
    again = np.array([d[~known, 2] == d[~known, 1] for d in drawn]).all(-1)
    assert np.array([d[~known, 2] == d[~known, 0] for d in drawn]).all(-1)[~again].all()
    assert 0.4 < again.mean() < 0.6
    # only a method that guides asks for it
    critic, method = make()
    guided = vgd.VgdOptions(Guidance(scale=0.1), 1e-2, proposals=Proposals(COUNT))
    kept = guided._replace(proposals=guided.proposals._replace(backup="max"))
    methods = [vgd.make_vgd(o, critic, toy.setting()) for o in (guided, kept)]
    assert [m.follows for m in (method, *methods)] == [False, False, True]


@pytest.mark.parametrize(
    ("reduce", "backup"),
    [
        ("mean", "max"),
        ("random_pair", "mean"),
        pytest.param("mean", "mean", marks=pytest.mark.slow),
        pytest.param("random_pair", "max", marks=pytest.mark.slow),
    ],
)
def test_a_training_call_equals_a_loop(backup, reduce):
    """Of `td.gradient_step`, on targets of this file's own; critics alone decide."""
    critic, method = make(backup, reduce, subset=3)
    state = method.init(jax.random.key(0))
    batches, key = batch_of(4, 2, BATCH), jax.random.key(9)
    found, metrics = jax.jit(method.update)(state, None, batches, key, 0)
    subset_keys = jax.random.split(jax.random.split(key)[1], 2)
    pair_keys = jax.random.split(jax.random.fold_in(key, td.PAIR_KEY), 2)
    options = Proposals(COUNT, backup=backup, subset=3)
    adam, expected = td.make_optimizer(1e-2), state.critic
    for i in range(2):
        batch = jax.tree.map(lambda leaf, i=i: leaf[i], batches)
        flat = own.draw_subset(options, subset_keys[i], batch)
        targets = reference.unstack(expected.target_params)
        if reduce == "random_pair":
            two = jax.random.permutation(pair_keys[i], NUM)[:2]
            targets = [targets[int(n)] for n in two]
        y = np.zeros(BATCH)
        for b in range(BATCH):
            q = np.array(
                [
                    [q_value(c, batch.next_obs[b], chunk) for chunk in flat[b]]
                    for c in targets
                ]
            )
            q = q.min(axis=0) if reduce == "random_pair" else q.mean(axis=0)
            value = q.max() if backup == "max" else q.mean()
            y[b] = batch.reward[b] + batch.discount[b] * value
        y = jnp.float32(y)
        expected, _ = td.gradient_step(critic, adam, expected, batch, y, 0.005)
    assert found.num_updates == 2 and float(metrics["train/td_error_mean"]) > 0
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        found.critic.params,
        expected.params,
    )


def test_float16_costs_what_the_configuration_says():
    critic, method = make(dtype="float16")
    assert method.next_extras[PROPOSALS].dtype == np.float16
    single = chunks_of(3, 1000, COUNT)
    error = np.abs(single.astype(np.float16).astype(np.float32) - single)
    assert 1e-4 < error.max() < 2.5e-4
    params = critic.init(jax.random.key(1))
    batch, half = batch_of(0, BATCH), batch_of(0, BATCH, dtype="float16")
    options = Proposals(COUNT)
    y, rounded = (
        own.target_over_proposals(
            critic, params, b, own.draw_subset(options, KEY, b), "max"
        )
        for b in (batch, half)
    )
    assert rounded.dtype == jnp.float32
    difference = np.abs(y - rounded).max()
    assert 0 < difference < 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"proposals.noises": ("randn", "tanh_randn")},
            "config.proposals.noises: found 2, expected at most guidance.candidates",
        ),
        ({"target_proposals": 2}, "config.target_proposals: found 2, expected at most"),
    ],
)
def test_more_than_there_are_candidates_is_refused(changes, message):
    setting = toy.setting()
    setting.config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        own.proposals_options(setting)
