"""The edit: its network's step, the targets with edits, what acts, and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.steering import edit, vgd
from dynvgd_jax.steering.critics import td
from dynvgd_jax.steering.critics.mlp import CriticEnsemble, MeanTarget, mean_critic
from dynvgd_jax.steering.edit import EditOptions
from dynvgd_jax.steering.guidance import Guidance
from dynvgd_jax.steering.methods import METHODS
from dynvgd_jax.steering.proposals import PROPOSALS, Proposals, draw_subset
from tests.steering import reference, toy
from tests.steering.torch_critics import Critics

BATCH, COUNT, NUM, STEPS = 12, 5, 3, 3
RATE, TAU = 1e-2, 0.1
OPTIONS = EditOptions(max_step=0.3, penalty=0.7, width=8, depth=2)


def make(backup="max", reduce="mean", guiding="target", setting=None, **changes):
    """The method with critics of this file's sizes; changes are of its `Proposals`."""
    ensemble = CriticEnsemble(num=NUM, width=8, depth=2)
    pairs = reduce == "random_pair"
    kind = MeanTarget("min" if pairs else reduce, 0.0)
    critic = mean_critic(ensemble, toy.OBS_DIM, toy.FLAT, kind)
    options = shared(backup, guiding, pairs, **changes)
    setting = setting or toy.setting()
    return edit.make_edit(OPTIONS, options, critic, setting), critic


def shared(backup="max", guiding="target", pairs=False, **changes):
    stored = Proposals(COUNT, ("tanh_randn",), backup)._replace(**changes)
    return vgd.VgdOptions(
        guidance=Guidance(scale=0.0, reduce="mean"),
        learning_rate=RATE,
        tau=TAU,
        proposals=stored,
        critics=guiding,
        random_pair=pairs,
    )


def batch_of(seed, *shape, count=COUNT):
    rng = np.random.default_rng(seed)
    batch = toy.transitions(seed, *shape)
    chunks = np.float32(rng.uniform(-1, 1, (*shape, count, *toy.CHUNK)))
    return batch._replace(
        discount=0.9 * batch.discount, next_extras={PROPOSALS: chunks}
    )


def learned(method, seed=1, gain=1.0):
    """A state whose network moves chunks, and whose target critics are their own."""
    state, other = (method.init(jax.random.key(s)) for s in (0, 5))
    out = state.editor["params"]["out"]
    rng = np.random.default_rng(seed)
    out = {k: jnp.float32(gain * rng.normal(size=v.shape)) for k, v in out.items()}
    critic = state.critic._replace(target_params=other.critic.params)
    return state._replace(
        critic=critic, editor={"params": state.editor["params"] | {"out": out}}
    )


class TorchEditor:
    """The network in float64: a function of observations and chunks."""

    def __init__(self, editor):
        stacked = {"critics": jax.tree.map(lambda leaf: leaf[None], editor["params"])}
        self.net = Critics({"params": stacked})

    def __call__(self, obs, flat):
        """The move and the edited chunks, `[n, Ta*Da]`."""
        move = OPTIONS.max_step * torch.tanh(self.net(obs, flat)[0])
        return move, (torch.as_tensor(flat) + move).clamp(-1, 1)

    def parameters(self):
        return self.net.parameters()

    def leaves(self):
        return self.net.members[0]


def values(critics, obs, flat):
    """`[N, n]`."""
    return critics(obs, flat)[..., 0]


def torch_call(state, batches, draws, backup, reduce, guiding):
    """`utd` steps of critics and network; returns them and the mean scalars."""
    current, targets = (
        Critics(p) for p in (state.critic.params, state.critic.target_params)
    )
    editor = TorchEditor(state.editor)
    adams = [torch.optim.Adam(m.parameters(), lr=RATE) for m in (current, editor)]
    scalars = []
    for i, (chunks, picked, pair) in enumerate(draws):
        batch = jax.tree.map(lambda leaf, i=i: np.float64(leaf[i]), batches)
        rows, count = chunks.shape[:2]
        y = torch.full((rows, 2 * count), torch.nan, dtype=torch.float64)
        for c in range(count):
            with torch.no_grad():
                _, edited = editor(batch.next_obs, chunks[:, c])
                for place, flat in ((c, chunks[:, c]), (count + c, edited)):
                    q = values(targets, batch.next_obs, flat)
                    q = (
                        q[list(pair)].min(0).values
                        if pair
                        else {"mean": q.mean(0), "min": q.min(0).values}[reduce]
                    )
                    reward, discount = map(torch.tensor, (batch.reward, batch.discount))
                    y[:, place] = reward + discount * q
        y = y.max(1).values if backup == "max" else y.mean(1)
        q = values(current, batch.obs, batch.action)
        critic_loss = 0.5 * ((q - y) ** 2).mean(1).sum()
        _descend(adams[0], critic_loss)
        with torch.no_grad():
            pairs = zip(targets.parameters(), current.parameters(), strict=True)
            for t, c in pairs:
                t.lerp_(c, TAU)
        one = chunks[np.arange(rows), picked]
        move, edited = editor(batch.next_obs, one)
        judge = {"current": current, "target": targets}[guiding]
        value = values(judge, batch.next_obs, edited).mean(0)
        follows = torch.tensor(batch.discount > 0)
        each = OPTIONS.penalty * (move**2).sum(1) - value
        loss = torch.where(follows, each, 0.0).sum() / rows
        _descend(adams[1], loss)
        length = (edited - torch.tensor(one)).norm(dim=1).mean()
        scalars.append([critic_loss.item(), loss.item(), length.item()])
    return current, targets, editor, np.mean(scalars, axis=0)


def _descend(adam, loss):
    adam.zero_grad()
    loss.backward()
    adam.step()


def draws_of(key, batches, options, pairs):
    """What each step draws: chunks, which one is edited, which critics judge."""
    subset_keys = jax.random.split(jax.random.split(key)[1], STEPS)
    pick_keys = jax.random.split(jax.random.fold_in(key, edit.PICK_KEY), STEPS)
    pair_keys = jax.random.split(jax.random.fold_in(key, td.PAIR_KEY), STEPS)
    for i in range(STEPS):
        batch = jax.tree.map(lambda leaf, i=i: leaf[i], batches)
        chunks = np.float64(draw_subset(options, subset_keys[i], batch))
        picked = jax.random.randint(pick_keys[i], (BATCH,), 0, chunks.shape[1])
        two = jax.random.permutation(pair_keys[i], NUM)[:2].tolist() if pairs else None
        yield chunks, np.asarray(picked), two


@pytest.mark.parametrize(
    ("backup", "reduce", "guiding"),
    [
        ("max", "mean", "target"),
        pytest.param("mean", "min", "current", marks=pytest.mark.slow),
        pytest.param("max", "random_pair", "current", marks=pytest.mark.slow),
    ],
)
def test_a_training_call_agrees_with_torch(backup, reduce, guiding):
    """Critics, targets and network after three steps, in float64."""
    method, _ = make(backup, reduce, guiding, subset=3)
    state, batches, key = learned(method), batch_of(4, STEPS, BATCH), jax.random.key(9)
    found, metrics = jax.jit(method.update)(state, None, batches, key, 0)
    options = Proposals(COUNT, backup=backup, subset=3)
    draws = list(draws_of(key, batches, options, reduce == "random_pair"))
    assert len({tuple(picked) for _, picked, _ in draws}) == STEPS
    current, targets, editor, scalars = torch_call(
        state, batches, draws, backup, reduce, guiding
    )
    names = ("train/critic_loss", "train/actor_loss", "train/edit_length")
    np.testing.assert_allclose([metrics[n] for n in names], scalars, rtol=2e-5)
    assert found.num_updates == STEPS and found.td_error > 0
    for ours, theirs in (
        (found.critic.params, current),
        (found.critic.target_params, targets),
    ):
        for got, want in zip(reference.unstack(ours), theirs.members, strict=True):
            assert_close(got, want)
    assert_close(found.editor["params"], editor.leaves())


def assert_close(found, expected, atol=1e-5):
    """Leaf by leaf, of torch's or of arrays."""

    def check(got, want):
        want = want.detach() if isinstance(want, torch.Tensor) else want
        np.testing.assert_allclose(got, want, atol=atol)

    jax.tree.map(check, found, expected)


def test_the_loss_by_hand():
    value, move = jnp.float32([2, 4]), jnp.float32([[3, 4], [0, 1]])
    both = edit.edit_loss(value, move, jnp.ones(2), 0.1)
    assert float(both) == pytest.approx((2.5 - 2 + 0.1 - 4) / 2)
    first = edit.edit_loss(value, move, jnp.float32([1, 0]), 0.1)
    assert float(first) == pytest.approx((2.5 - 2) / 2)


def linear_critic(critic, slope):
    """Critics whose value is `slope . chunk`, whatever they learn."""

    def predict(params, obs, flat):
        del obs
        level = params["level"]
        value = jnp.broadcast_to(flat @ slope, (NUM, len(flat)))
        return value + 0.0 * level

    init = lambda key: {"level": jnp.zeros((NUM, 1))}  # noqa: E731
    return critic._replace(init=init, predict=predict)


def test_a_move_grows_until_it_costs_what_it_brings():
    """Of value g . a and penalty p the best move is g / 2p, where that is allowed."""
    slope = np.float32([0.6, -0.4, 0.2, 0, 2, -2, 0.1, -0.1])
    _, critic = make()
    method = edit.make_edit(
        OPTIONS._replace(penalty=2.0),
        shared(),
        linear_critic(critic, slope),
        toy.setting(),
    )
    steps = 400
    batches = batch_of(1, steps, BATCH)
    chunks = {PROPOSALS: 0.5 * batches.next_extras[PROPOSALS]}  # no clip in reach
    batches = batches._replace(next_extras=chunks)
    state = method.init(jax.random.key(0))
    update = jax.jit(method.update)
    for number in range(2):
        state, _ = update(state, None, batches, jax.random.key(number), 0)
    given = chunks[PROPOSALS][:5, 0, :1]  # [5, 1, Ta, Da]
    inputs = toy.inputs(batches.next_obs[:5, 0], None)._replace(
        proposed={PROPOSALS: given}
    )
    decision = jax.jit(method.act)(state, None, inputs)
    moved = (decision.chunk - given[:, 0]).reshape(5, -1)
    expected = np.clip(slope / 4, -0.3, 0.3)
    np.testing.assert_allclose(moved, np.tile(expected, (5, 1)), atol=0.03)
    # worth slope . move; every edited chunk is the better one
    assert float(decision.metrics["guide/edit_gain"]) == pytest.approx(
        float(np.mean(moved @ slope)), abs=1e-5
    )
    assert decision.metrics["guide/edited_share"] == 1


def test_no_number_moves_further_than_it_may():
    method, _ = make()
    state = learned(method, gain=100.0)  # tanh is at its ends
    bound = method.act.__self__
    rng = np.random.default_rng(0)
    obs = np.float32(rng.normal(size=(50, toy.OBS_DIM)))
    flat = np.float32(rng.uniform(-1.5, 1.5, (50, toy.FLAT)))
    move, edited = bound._edit(state.editor, obs, flat)
    moved = np.asarray(edited) - flat
    assert np.abs(moved).max() <= OPTIONS.max_step + 1e-6
    assert np.abs(moved).max() > OPTIONS.max_step - 1e-3
    inside = np.abs(flat) <= 1
    assert np.abs(edited)[inside].max() <= 1
    outwards = ~inside & (np.sign(move) == np.sign(flat))
    assert outwards.any() and np.abs(moved[outwards]).max() == 0
    away = np.abs(flat) < 0.7  # no bound in reach
    np.testing.assert_allclose(moved[away], np.asarray(move)[away], atol=1e-6)


def test_acting_takes_the_best_of_edited_and_unedited_chunks():
    method, _ = make()
    state, envs = learned(method), 6
    given = batch_of(3, envs)
    inputs = toy.inputs(given.next_obs, None)._replace(proposed=given.next_extras)
    decision = jax.jit(method.act)(state, None, inputs)
    editor = TorchEditor(state.editor)
    targets = Critics(state.critic.target_params)
    gains, edited_ones = [], 0
    for row in range(envs):
        obs = np.float64(given.next_obs[row : row + 1])
        plain = np.float64(given.next_extras[PROPOSALS][row].reshape(COUNT, -1))
        edits = [editor(obs, c[None])[1][0].detach().numpy() for c in plain]
        both = np.concatenate([plain, edits])
        value = [values(targets, obs, c[None]).mean().item() for c in both]
        best = int(np.argmax(value))
        edited_ones += best >= COUNT
        gains.append(max(value) - max(value[:COUNT]))
        np.testing.assert_allclose(
            decision.chunk[row].reshape(-1), both[best], atol=1e-6
        )
    assert 0 < edited_ones
    scalars = decision.metrics
    assert float(scalars["guide/edited_share"]) == pytest.approx(edited_ones / envs)
    assert float(scalars["guide/edit_gain"]) == pytest.approx(np.mean(gains), abs=1e-5)


@pytest.mark.slow
def test_an_untrained_network_moves_nothing_and_no_step_is_the_choice_alone():
    """Chunks bit for bit; parameters but for the rounding of larger products."""
    _, critic = make()
    options = shared(subset=3)
    choice = vgd.make_vgd(options, critic, toy.setting())
    method, _ = make(subset=3)
    still = edit.make_edit(
        OPTIONS._replace(max_step=0.0), options, critic, toy.setting()
    )
    given = batch_of(3, 6)
    inputs = toy.inputs(given.next_obs, None)._replace(proposed=given.next_extras)
    key = jax.random.key(0)
    critic_key, _ = jax.random.split(key)
    states = [choice.init(critic_key), method.init(key), still.init(key)]
    chunks = [
        jax.jit(m.act)(state, None, inputs).chunk
        for m, state in zip((choice, method, still), states, strict=True)
    ]
    np.testing.assert_array_equal(chunks[0], chunks[1])
    batches, key = batch_of(4, STEPS, BATCH), jax.random.key(9)
    alone, moved, unmoved = (
        jax.jit(m.update)(state, None, batches, key, 0)[0]
        for m, state in zip((choice, method, still), states, strict=True)
    )
    assert_close(unmoved.critic.params, alone.critic.params, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, chunks[0], chunks[2])
    first, second = (s.critic.params["params"]["critics"] for s in (alone, moved))
    assert np.abs(first["out"]["kernel"] - second["out"]["kernel"]).max() > 1e-5


def test_no_key_is_used_twice(monkeypatch):
    """`fold_in(key, 1)` is `split(key, n)[1]`: the second critic's."""
    used = {}

    def watched(name, function, place):
        def call(*arguments):
            used[name] = tuple(jax.random.key_data(arguments[place]).tolist())
            return function(*arguments)

        return call

    fresh, draw = edit.td.fresh_critics, edit.init_on_rows
    monkeypatch.setattr(edit.td, "fresh_critics", watched("critics", fresh, 2))
    monkeypatch.setattr(edit, "init_on_rows", watched("editor", draw, 1))
    key = jax.random.key(0)
    make()[0].init(key)
    given = tuple(jax.random.key_data(key).tolist())
    assert len({given, used["critics"], used["editor"]}) == 3
    critics = jax.random.split(jax.random.wrap_key_data(jnp.uint32(used["critics"])), 8)
    assert used["editor"] not in map(tuple, jax.random.key_data(critics).tolist())


@pytest.mark.slow
def test_devices_that_share_a_batch_learn_what_one_learns():
    """With one proposal there is nothing to draw, in which they would differ."""
    whole = batch_of(4, STEPS, BATCH, count=1)
    single, _ = make(count=1)
    setting = toy.setting(
        average=lambda tree: jax.tree.map(lambda x: jax.lax.pmean(x, "devices"), tree)
    )
    half, _ = make(count=1, setting=setting)
    state, key = learned(single), jax.random.key(9)
    expected, want = jax.jit(single.update)(state, None, whole, key, 0)
    parts = jax.tree.map(
        lambda leaf: jnp.stack(jnp.split(jnp.asarray(leaf), 2, axis=1)), whole
    )
    update = jax.vmap(
        lambda batches: half.update(state, None, batches, key, 0), axis_name="devices"
    )
    found, got = jax.jit(update)(parts)
    for tree, like in (
        (found.editor, expected.editor),
        (found.critic.params, expected.critic.params),
    ):
        assert_close(tree, jax.tree.map(lambda leaf: np.stack([leaf, leaf]), like))
    for name in ("train/actor_loss", "train/edit_length"):
        np.testing.assert_allclose(got[name], [float(want[name])] * 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("edit", {}, "target_backup: found 'guided', expected 'max' or 'mean'"),
        (
            "best_of_n",
            {"target_backup": "max"},
            "candidates: found 1, expected at least 2 for method 'best_of_n'",
        ),
        (
            "best_of_n",
            {"guidance.candidates": 2},
            "target_backup: found 'guided', expected 'max' or 'mean'",
        ),
    ],
)
def test_methods_that_need_proposals_say_so(name, changes, message):
    setting = toy.setting()
    setting.config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        METHODS[name](setting)
