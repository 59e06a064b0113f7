"""The method's `act` and `update`: two routes agree, warm-ups, limit cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynvgd_jax.diffusion.base import sample
from dynvgd_jax.replay import ring as replay_lib
from dynvgd_jax.replay.ring import Window
from dynvgd_jax.steering import vgd
from dynvgd_jax.steering.critics import td
from dynvgd_jax.steering.critics.mlp import CriticEnsemble, mean_critic
from dynvgd_jax.steering.guidance import Guidance
from dynvgd_jax.training.programs import call_on_ring
from dynvgd_jax.training.replay_memory import Draw
from tests.steering import reference, toy

UTD, BATCH, ENVS = 3, 16, 5
SCHEDULE = toy.schedule(4)
WINDOW = Window(gamma=0.9)
DRAW = Draw(UTD, BATCH, 0, WINDOW)
sample_batches = jax.jit(replay_lib.sample, static_argnums=(2, 3))
apply = jax.jit(CriticEnsemble.apply, static_argnums=0)


def critics(initial_value=0.0):
    ensemble = CriticEnsemble(num=3, width=16, depth=2)
    critic = mean_critic(ensemble, toy.OBS_DIM, toy.FLAT, initial_value=initial_value)
    return ensemble, critic


def make(scale=0.05, warmup=0, changes=None, **options):
    """Returns options, ensemble, critic and method."""
    config = vgd.VgdOptions(
        guidance=Guidance(scale=scale, last_k=2, **options),
        learning_rate=1e-3,
        warmup_updates=warmup,
    )._replace(**(changes or {}))
    ensemble, critic = critics()
    return config, ensemble, critic, vgd.make_vgd(config, critic, toy.setting())


def updating(method, draw=DRAW):
    """The training call on a ring: `(state, store, params, key, env_steps)`."""
    return jax.jit(call_on_ring(method, draw))


def draws(store, key, draw=DRAW):
    """What that call draws: batches and the start noise of their targets."""
    sample_key, noise_key = jax.random.split(key)
    shape = (draw.utd, draw.batch_size)
    batches = sample_batches(store, sample_key, shape, draw.window)
    return batches, jax.random.normal(noise_key, (*shape, *toy.CHUNK))


def acting(method):
    """`(state, params, obs, noise, env_steps) -> (chunk, scalars)`."""

    def act(state, params, obs, noise, env_steps=0):
        decision = method.act(state, params, toy.inputs(obs, noise, env_steps))
        assert decision.extras == {}
        return decision.chunk, decision.metrics

    return jax.jit(act)


def filled_replay():
    state = replay_lib.init_replay(200, toy.example())
    return replay_lib.add(state, toy.transitions(0, 100))


def test_critics_and_targets_start_from_the_configured_value():
    config, ensemble, _, method = make()
    lowered = vgd.make_vgd(config, critics(initial_value=-9.0)[1], toy.setting())
    batch = toy.transitions(2, BATCH)
    states = [m.init(jax.random.key(0)).critic for m in (method, lowered)]
    for name in ("params", "target_params"):
        q, low = (
            apply(ensemble, getattr(s, name), batch.obs, batch.action) for s in states
        )
        np.testing.assert_allclose(low, q - 9.0, rtol=1e-6)


def test_scan_equals_a_python_loop_over_whole_decodes():
    """The loop shares no prefix, no scan: each step decodes from noise by itself."""
    config, _, kind, method = make()
    params = toy.to_jax(toy.weights())
    state = method.init(jax.random.key(0))._replace(td_error=jnp.float32(3.0))
    key, store = jax.random.key(7), filled_replay()
    out, metrics = updating(method)(state, store, params, key, 0)

    batches, noise = draws(store, key)
    critic, errors = state.critic, []
    act = acting(method)
    optimizer = td.make_optimizer(config.learning_rate)
    step = jax.jit(
        lambda critic, batch, action: td.gradient_step(
            kind,
            optimizer,
            critic,
            batch,
            td.next_target(kind, critic.target_params, batch, action),
            config.tau,
        )
    )
    for i in range(UTD):
        batch = jax.tree.map(lambda leaf, i=i: leaf[i], batches)
        now = state._replace(critic=critic)
        chunk, _ = act(now, params, batch.next_obs, noise[i])
        next_action = chunk.reshape(BATCH, -1)
        critic, step_metrics = step(critic, batch, next_action)
        errors.append(step_metrics["train/td_error_mean"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6),
        out.critic.params,
        critic.params,
    )
    np.testing.assert_allclose(out.td_error, np.mean(errors), rtol=1e-5)
    np.testing.assert_allclose(metrics["train/td_error_mean"], out.td_error)
    assert int(out.num_updates) == UTD


def test_update_learns_from_the_window_and_the_noise_that_are_configured():
    *_, method = make(changes={"action_noise": 0.3})
    window = Window(steps=4, stride=ENVS, gamma=0.9)
    draw = Draw(1, BATCH, 0, window)
    params, state = toy.to_jax(toy.weights()), method.init(jax.random.key(0))
    key, fresh = jax.random.key(7), toy.transitions(1, ENVS)
    store = replay_lib.add(filled_replay(), fresh)
    out, _ = updating(method, draw)(state, store, params, key, 0)
    batches, _ = draws(store, key, draw)
    blur = 0.3 * jax.random.normal(
        jax.random.fold_in(key, vgd.BLUR_KEY), batches.action.shape
    )
    action = np.clip(batches.action + blur, -1, 1)
    assert 0.1 < np.std(action - batches.action) < 0.3  # the clip takes some
    batches = batches._replace(action=action)
    *_, published = make()  # learns from what it is given
    expected, _ = jax.jit(published.update)(state, params, batches, key, 0)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), out, expected
    )
    plain, _ = draws(store, key, Draw(1, BATCH, 0, WINDOW))
    assert not np.array_equal(plain.reward, batches.reward)


def test_every_gradient_step_sees_its_own_batch():
    """Two steps on one batch, or a reused noise, would give equal metrics."""
    losses = []
    key, store = jax.random.key(7), filled_replay()
    batches, noise = draws(store, key)
    for i in range(UTD):
        for j in range(i):
            assert not np.array_equal(batches.obs[i], batches.obs[j])
            assert not np.array_equal(noise[i], noise[j])
    # And the update consumes them all: with a learning rate of zero the metric is the
    # mean over the distinct batches.
    _, ensemble, kind, method = make(changes={"learning_rate": 0.0})
    params, state = toy.to_jax(toy.weights()), method.init(jax.random.key(0))
    _, metrics = updating(method)(state, store, params, key, 0)
    act = acting(method)
    for i in range(UTD):
        batch = jax.tree.map(lambda leaf, i=i: leaf[i], batches)
        chunk, _ = act(state, params, batch.next_obs, noise[i])
        flat = chunk.reshape(BATCH, -1)
        next_q = apply(ensemble, state.critic.target_params, batch.next_obs, flat)
        y = kind.target(next_q, batch.reward, batch.discount)
        q = apply(ensemble, state.critic.params, batch.obs, batch.action)
        losses.append(float(kind.loss(q, y)))
    assert len(set(losses)) == UTD
    np.testing.assert_allclose(metrics["train/critic_loss"], np.mean(losses), rtol=1e-5)


@pytest.mark.parametrize("guiding", ["current", "target"])
def test_whole_update_agrees_with_float64(guiding):
    config, _, _, method = make(scale=0.02, changes={"critics": guiding})
    params = toy.to_jax(toy.weights())
    state = with_other_targets(method)
    key, fresh = jax.random.key(3), toy.transitions(1, ENVS)
    store = replay_lib.add(filled_replay(), fresh)
    out, _ = updating(method)(state, store, params, key, 0)

    batches, noise = draws(store, key)
    noise = np.asarray(noise)
    critics = reference.unstack(state.critic.params)
    targets = reference.unstack(state.critic.target_params)
    moments = list(
        zip(reference.zeros_like(critics), reference.zeros_like(critics), strict=True)
    )
    for i in range(UTD):
        batch = jax.tree.map(lambda leaf, i=i: np.float64(leaf[i]), batches)
        chunk = reference.guided_decode(
            toy.make_eps_fn(toy.weights(), np),
            *SCHEDULE,
            {"current": critics, "target": targets}[guiding],
            noise[i],
            batch.next_obs,
            config.guidance,
            td_error=0.0,
        )
        reference.td_step(
            critics,
            targets,
            moments,
            i + 1,
            batch,
            chunk.reshape(BATCH, -1),
            lr=config.learning_rate,
            tau=config.tau,
        )
    for got, want in zip(reference.unstack(out.critic.params), critics, strict=True):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want
        )


def with_other_targets(method):
    """A new state whose target critics are not its current ones."""
    state, other = (method.init(jax.random.key(seed)) for seed in (0, 1))
    critic = state.critic._replace(target_params=other.critic.params)
    return state._replace(critic=critic)


def test_target_critics_guide_and_choose_where_the_configuration_says_so():
    """They act as the same critics do where they are the current ones."""
    *_, by_current = make()
    *_, by_target = make(changes={"critics": "target"})
    params, state = toy.to_jax(toy.weights()), with_other_targets(by_target)
    swapped = state.critic._replace(params=state.critic.target_params)
    swapped = state._replace(critic=swapped)
    obs = jax.random.normal(jax.random.key(1), (ENVS, toy.OBS_DIM))
    noise = jax.random.normal(jax.random.key(2), (ENVS, 4, *toy.CHUNK))
    act_by_target, act_by_current = acting(by_target), acting(by_current)
    for own in (noise, noise[:, 0]):
        found = act_by_target(state, params, obs, own)
        expected = act_by_current(swapped, params, obs, own)
        jax.tree.map(np.testing.assert_array_equal, found, expected)
        other, _ = act_by_current(state, params, obs, own)
        assert np.abs(found[0] - other).max() > 1e-3


@pytest.mark.parametrize("scale", [0.0, 0.05])
def test_of_several_candidates_the_one_of_highest_value_acts(scale):
    _, ensemble, _, method = make(scale=scale)
    params, count = toy.to_jax(toy.weights()), 4
    state = method.init(jax.random.key(0))
    obs = jax.random.normal(jax.random.key(1), (ENVS, toy.OBS_DIM))
    noise = jax.random.normal(jax.random.key(2), (ENVS, count, *toy.CHUNK))
    act = acting(method)
    chunk, metrics = act(state, params, obs, noise)
    # Candidate by candidate, each decoded by itself.
    each = [act(state, params, obs, noise[:, c])[0] for c in range(count)]
    value = np.stack(
        [
            apply(ensemble, state.critic.params, obs, c.reshape(ENVS, -1)).min(0)
            for c in each
        ],
        1,
    )
    best = value.argmax(1)
    assert len(set(best)) > 1
    for i in range(ENVS):
        np.testing.assert_allclose(chunk[i], each[best[i]][i], atol=2e-6)
    gain = np.mean(value.max(1) - value.mean(1))
    np.testing.assert_allclose(metrics["guide/candidate_gain"], gain, atol=1e-5)


def test_scale_zero_acts_as_plain_ddim_bit_for_bit():
    *_, method = make(scale=0.0)
    params = toy.to_jax(toy.weights())
    state = method.init(jax.random.key(0))
    obs = jax.random.normal(jax.random.key(1), (ENVS, toy.OBS_DIM))
    noise = jax.random.normal(jax.random.key(2), (ENVS, *toy.CHUNK))
    chunk, stats = acting(method)(state, params, obs, noise)
    # Weights as arguments here too: XLA rounds otherwise where it knows them.
    plain = jax.jit(
        lambda params, x, obs: sample(toy.setting().denoiser, params, x, obs)
    )(params, noise, obs)
    np.testing.assert_array_equal(chunk, plain)
    assert stats == {}


def test_lambda_ramps_with_updates():
    *_, method = make(scale=0.05, warmup=100)
    params = toy.to_jax(toy.weights())
    obs = jnp.zeros((ENVS, toy.OBS_DIM))
    noise = jax.random.normal(jax.random.key(2), (ENVS, *toy.CHUNK))
    state, act = method.init(jax.random.key(0)), acting(method)
    for updates, share in ((0, 0.0), (25, 0.25), (100, 1.0), (500, 1.0)):
        now = state._replace(num_updates=jnp.int32(updates))
        _, stats = act(now, params, obs, noise)
        np.testing.assert_allclose(stats["guide/lambda_base"], 0.05 * share, rtol=1e-6)


def test_td_statistic_lowers_the_weight_of_the_next_call():
    *_, method = make()
    params = toy.to_jax(toy.weights())
    obs = jnp.zeros((ENVS, toy.OBS_DIM))
    noise = jax.random.normal(jax.random.key(2), (ENVS, *toy.CHUNK))
    state, act = method.init(jax.random.key(0)), acting(method)
    calm = act(state, params, obs, noise)[1]["guide/weight_mean"]
    state = state._replace(td_error=jnp.float32(100.0))
    unstable = act(state, params, obs, noise)[1]["guide/weight_mean"]
    # Not exact: from the second guided step on, z itself depends on the weight.
    np.testing.assert_allclose(unstable / calm, np.exp(-1.0), rtol=1e-3)


def test_same_key_same_bits():
    *_, method = make()
    params = toy.to_jax(toy.weights())
    run = updating(method)
    first, second, other = (
        run(
            method.init(jax.random.key(0)),
            filled_replay(),
            params,
            jax.random.key(seed),
            0,
        )[0]
        for seed in (5, 5, 6)
    )
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert not np.array_equal(first.td_error, other.td_error)


def test_update_donates_without_aliasing():
    """The whole state can be donated, call after call."""
    *_, method = make()
    params = toy.to_jax(toy.weights())
    run = jax.jit(call_on_ring(method, DRAW), donate_argnums=0)
    state, store = method.init(jax.random.key(0)), filled_replay()
    for i in range(3):
        before = jax.tree.leaves(state)
        state, _ = run(state, store, params, jax.random.key(i), 0)
        assert all(leaf.is_deleted() for leaf in before)
    assert int(state.num_updates) == 3 * UTD
