"""Groups of critics learn as ensembles of their own would, each from its own rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base, can_ddim8, can_ddim8_dsrl_na
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.diffusion.policy_files import load_policy
from dynvgd_jax.steering import edit, vgd
from dynvgd_jax.steering.critics import td
from dynvgd_jax.steering.critics.groups import in_groups, num_groups, side_by_side
from dynvgd_jax.steering.critics.kinds import CRITICS
from dynvgd_jax.steering.guidance import Guidance
from dynvgd_jax.steering.methods import build_method
from dynvgd_jax.steering.proposals import PROPOSALS, Proposals
from tests.steering import reference, toy

NUM, GROUPS, UTD, BATCH, COUNT = 4, 2, 2, 6, 3
SIZES = (toy.OBS_DIM, toy.FLAT)
KEY = jax.random.key(5)


def critics(kind="mean", num=NUM):
    config = base.get_config()
    config.critic.update(kind=kind, num=num, width=8, depth=2, quantiles=5, bins=8)
    config.critic.update(initial_value=-1.0, v_min=-8.0, v_max=4.0)
    config.target_reduce, config.target_clip = "mean", 0.0
    return CRITICS[kind](config, *SIZES)


def options(groups=GROUPS):
    return vgd.VgdOptions(
        guidance=Guidance(scale=0.0, reduce="mean"),
        learning_rate=1e-2,
        tau=0.1,
        proposals=Proposals(COUNT, backup="max"),
        groups=groups,
        utd=UTD,
    )


def batches_of(seed, utd=UTD, groups=GROUPS):
    batch = toy.transitions(seed, utd * groups, BATCH)
    rng = np.random.default_rng(seed)
    shape = (utd * groups, BATCH, COUNT, *toy.CHUNK)
    chunks = np.float32(rng.uniform(-1, 1, shape))
    discount = 0.9 * batch.discount
    return batch._replace(discount=discount, next_extras={PROPOSALS: chunks})


def members(tree, group):
    """A group's part of what has a leading axis N."""
    size = NUM // GROUPS
    return jax.tree.map(lambda leaf: np.asarray(leaf)[group * size :][:size], tree)


def test_a_training_call_equals_that_of_two_ensembles():
    """Targets are this file's own, in float64 and by loops."""
    method = vgd.make_vgd(options(), critics(), toy.setting())
    assert method.more_batches == UTD * (GROUPS - 1)
    state, batches = method.init(jax.random.key(0)), batches_of(1)
    found, metrics = jax.jit(method.update)(state, None, batches, KEY, 0)
    alone, adam = critics(num=NUM // GROUPS), td.make_optimizer(1e-2)

    @jax.jit
    def one_step(now, batch, y):
        return td.gradient_step(alone, adam, now, batch, y, 0.1)[0]

    for group in range(GROUPS):
        params = members(state.critic.params, group)
        now = td.CriticState(params, params, adam.init(params))
        for step in range(UTD):
            place = step * GROUPS + group
            batch = jax.tree.map(lambda leaf, place=place: leaf[place], batches)
            y = float64_targets(now.target_params, batch)
            now = one_step(now, batch, y)
        for name in ("params", "target_params"):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
                members(getattr(found.critic, name), group),
                getattr(now, name),
            )
    assert int(found.num_updates) == UTD and float(found.td_error) > 0
    assert f"train/q{NUM - 1}_mean" in metrics


def float64_targets(target_params, batch):
    nets = reference.unstack(target_params)
    y = np.zeros(BATCH)
    for b in range(BATCH):
        obs, chunks = batch.next_obs[b][None], batch.next_extras[PROPOSALS][b]
        values = [
            np.mean(
                [
                    reference.ensemble_q([net], obs, chunk.reshape(1, -1))[0, 0]
                    for net in nets
                ]
            )
            for chunk in chunks
        ]
        y[b] = batch.reward[b] + batch.discount[b] * np.max(values)
    return jnp.float32(y)


@pytest.mark.parametrize("kind", list(CRITICS))
def test_predictions_targets_and_loss_are_the_groups_own(kind):
    whole, alone = critics(kind), critics(kind, NUM // GROUPS)
    params = whole.init(jax.random.key(2))
    grouped = in_groups(whole, GROUPS)
    rows = jax.tree.map(lambda leaf: leaf[0], side_by_side(batches_of(3), GROUPS))
    prediction = jax.jit(grouped.predict)(params, rows.obs, rows.action)
    y = jax.jit(grouped.target)(prediction, rows.reward, rows.discount)
    predict, target, own_loss = map(jax.jit, (alone.predict, alone.target, alone.loss))
    assert grouped.mean(prediction).shape == (NUM // GROUPS, GROUPS * BATCH)
    loss = 0.0
    for group in range(GROUPS):
        own = jax.tree.map(lambda leaf, g=group: leaf[g * BATCH :][:BATCH], rows)
        expected = predict(members(params, group), own.obs, own.action)
        part = slice(group * BATCH, (group + 1) * BATCH)
        np.testing.assert_allclose(prediction[:, part], expected, atol=2e-6)
        own_y = target(expected, own.reward, own.discount)
        np.testing.assert_allclose(y[part], own_y, atol=1e-5)
        loss += own_loss(expected, own_y)
    np.testing.assert_allclose(jax.jit(grouped.loss)(prediction, y), loss, rtol=1e-5)


def edit_method():
    return edit.make_edit(
        edit.EditOptions(width=8, depth=1), options(), critics(), toy.setting()
    )


@pytest.mark.parametrize(
    "method", [vgd.make_vgd(options(), critics(), toy.setting()), edit_method()]
)
def test_a_group_never_sees_the_others_rows(method):
    assert method.more_batches == UTD * (GROUPS - 1)
    state, batches = method.init(jax.random.key(0)), batches_of(1, utd=1)
    # the second batch is the second group's
    other = batches._replace(reward=batches.reward + np.float32([[0.0], [1.0]]))
    update = jax.jit(method.update)
    one, two = (update(state, None, b, KEY, 0)[0].critic for b in (batches, other))
    equal = [
        [
            np.array_equal(a, b)
            for a, b in zip(
                jax.tree.leaves(members(one.params, group)),
                jax.tree.leaves(members(two.params, group)),
                strict=True,
            )
        ]
        for group in range(GROUPS)
    ]
    assert (all(equal[0]), all(equal[1])) == (True, False)


def test_rows_are_laid_side_by_side():
    batches = batches_of(2)
    rows = side_by_side(batches, GROUPS)
    assert rows.reward.shape == (UTD, GROUPS * BATCH)
    for step in range(UTD):
        for group in range(GROUPS):
            part = slice(group * BATCH, (group + 1) * BATCH)
            place = step * GROUPS + group
            np.testing.assert_array_equal(rows.obs[step, part], batches.obs[place])
    assert side_by_side(batches, 1) is batches
    with pytest.raises(ValueError, match="found 4 batches, expected a multiple of 3"):
        side_by_side(batches, 3)


def test_every_critic_has_its_own_mean():
    q = jnp.arange(2 * GROUPS * BATCH, dtype=jnp.float32).reshape(2, GROUPS * BATCH)
    y = jnp.zeros(GROUPS * BATCH)
    metrics = td.td_metrics(q, y, jnp.zeros(()), GROUPS)
    # critics 0 and 1 are the first group's, which has the first rows
    expected = [q[0, :BATCH], q[1, :BATCH], q[0, BATCH:], q[1, BATCH:]]
    for i, own in enumerate(expected):
        assert metrics[f"train/q{i}_mean"] == own.mean()
    assert metrics["train/q_diff_max_min"] == GROUPS * BATCH
    # with one critic a group nothing says how far they disagree
    alone = td.td_metrics(q[:1], y, jnp.zeros(()), GROUPS)
    assert {*metrics} - {*alone} == {
        "train/q_std_inter_critic",
        "train/q_diff_max_min",
    } | {
        "train/q2_mean",
        "train/q3_mean",
    }


def test_critics_must_share_the_groups_equally():
    config = can_ddim8.get_config("quick")
    config.critic.groups = 3
    with pytest.raises(UserError, match="groups: found 3, expected a divisor of crit"):
        num_groups(config)
    config.critic.groups = 2
    assert num_groups(config) == 2


@pytest.mark.parametrize("method", ["dsrl_na", "dsrl_sac"])
def test_dsrl_refuses_groups(method):
    config = can_ddim8_dsrl_na.get_config()
    config.method, config.critic.groups = method, 2
    with pytest.raises(UserError, match=f"found 2, expected 1 for method '{method}'"):
        build_method(config, load_policy("builtin:can"))
