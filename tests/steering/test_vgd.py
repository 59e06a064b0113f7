"""The method's `act` and `update`: two routes agree, warm-ups, limit cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynvgd_jax.core.types import Transition
from dynvgd_jax.diffusion.sampler import ddim_decode
from dynvgd_jax.diffusion.schedule import cosine_schedule, ddim_schedule
from dynvgd_jax.replay import ring as replay_lib
from dynvgd_jax.steering import vgd
from dynvgd_jax.steering.critics import td
from dynvgd_jax.steering.critics.mlp import CriticEnsemble
from dynvgd_jax.steering.guidance import Guidance
from tests.steering import reference, toy

UTD, BATCH, ENVS = 3, 16, 5
SCHEDULE = ddim_schedule(cosine_schedule(20), 4)


def make(scale=0.05, warmup=0, utd=UTD, **options):
    config = vgd.VgdConfig(
        guidance=Guidance(scale=scale, last_k=2, **options),
        td=td.TdConfig(gamma=0.9),
        learning_rate=1e-3,
        batch_size=BATCH,
        utd=utd,
        guidance_warmup_updates=warmup,
    )
    ensemble = CriticEnsemble(num=3, width=16, depth=2)
    method = vgd.make_vgd(
        config, ensemble, SCHEDULE, toy.make_eps_fn, toy.OBS_DIM, toy.CHUNK
    )
    return config, ensemble, method


def transitions(seed, count):
    rng = np.random.default_rng(seed)
    return Transition(
        obs=jnp.float32(rng.normal(size=(count, toy.OBS_DIM))),
        action=jnp.float32(rng.uniform(-1, 1, (count, toy.FLAT))),
        reward=jnp.float32(rng.normal(size=count) - 2),
        next_obs=jnp.float32(rng.normal(size=(count, toy.OBS_DIM))),
        done=jnp.float32(rng.random(count) < 0.2),
    )


def filled_replay():
    state = replay_lib.init_replay(200, toy.OBS_DIM, toy.FLAT)
    return replay_lib.add(state, transitions(0, 100))


def test_critics_and_targets_start_from_the_configured_value():
    config, ensemble, method = make()
    lowered = vgd.make_vgd(
        config._replace(initial_value=-9.0),
        ensemble,
        SCHEDULE,
        toy.make_eps_fn,
        toy.OBS_DIM,
        toy.CHUNK,
    )
    batch = transitions(2, BATCH)
    states = [m.init(jax.random.key(0)).critic for m in (method, lowered)]
    for name in ("params", "target_params"):
        q, low = (
            ensemble.apply(getattr(s, name), batch.obs, batch.action) for s in states
        )
        np.testing.assert_allclose(low, q - 9.0, rtol=1e-6)


def test_scan_equals_a_python_loop_over_whole_decodes():
    """The loop shares no prefix, no scan: each step decodes from noise by itself."""
    config, ensemble, method = make()
    params = toy.to_jax(toy.weights())
    state = method.init(jax.random.key(0))._replace(td_error=jnp.float32(3.0))
    key, store = jax.random.key(7), filled_replay()
    out, metrics = jax.jit(method.update)(state, store, params, key, 0)

    sample_key, noise_key = jax.random.split(key)
    batches = replay_lib.sample(store, sample_key, (UTD, BATCH))
    noise = jax.random.normal(noise_key, (UTD, BATCH, *toy.CHUNK))
    critic, errors = state.critic, []
    optimizer = td.make_optimizer(config.learning_rate)
    for i in range(UTD):
        batch = jax.tree.map(lambda leaf, i=i: leaf[i], batches)
        now = state._replace(critic=critic)
        chunk, _ = method.act(now, params, batch.next_obs, noise[i], 0)
        critic, step_metrics = td.gradient_step(
            ensemble, optimizer, critic, batch, chunk.reshape(BATCH, -1), config.td
        )
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
    config, ensemble, _ = make(utd=1)
    window = replay_lib.Window(steps=4, stride=ENVS, gamma=0.9)
    config = config._replace(window=window, action_noise=0.3)
    method = vgd.make_vgd(
        config, ensemble, SCHEDULE, toy.make_eps_fn, toy.OBS_DIM, toy.CHUNK
    )
    params, state = toy.to_jax(toy.weights()), method.init(jax.random.key(0))
    key, fresh = jax.random.key(7), transitions(1, ENVS)
    # One environment's transitions are ENVS apart and go on from each other.
    before = filled_replay()
    obs = before.data.obs
    data = before.data._replace(next_obs=jnp.roll(obs, -ENVS, axis=0))
    before = before._replace(data=data)
    store = replay_lib.add(before, fresh)
    out, _ = jax.jit(method.update)(state, store, params, key, 0)
    sample_key, noise_key = jax.random.split(key)
    batches = replay_lib.sample(store, sample_key, (1, BATCH), 0, window)
    blur = 0.3 * jax.random.normal(
        jax.random.fold_in(key, vgd.BLUR_KEY), batches.action.shape
    )
    action = np.clip(batches.action + blur, -1, 1)
    assert 0.1 < np.std(action - batches.action) < 0.3  # the clip takes some
    batches = batches._replace(action=action)
    noise = jax.random.normal(noise_key, (1, BATCH, *toy.CHUNK))
    _, _, published = make(utd=1)  # learns from what it is given
    expected, _ = jax.jit(published.learn)(state, params, batches, noise, 0)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), out, expected
    )
    plain = replay_lib.sample(store, sample_key, (1, BATCH))
    assert not np.array_equal(plain.reward, batches.reward)


def test_every_gradient_step_sees_its_own_batch():
    """Two steps on one batch, or a reused noise, would give equal metrics."""
    losses = []
    key = jax.random.key(7)
    sample_key, noise_key = jax.random.split(key)
    batches = replay_lib.sample(filled_replay(), sample_key, (UTD, BATCH))
    noise = jax.random.normal(noise_key, (UTD, BATCH, *toy.CHUNK))
    for i in range(UTD):
        for j in range(i):
            assert not np.array_equal(batches.obs[i], batches.obs[j])
            assert not np.array_equal(noise[i], noise[j])
    # And the update consumes them all: with a learning rate of zero the metric is the
    # mean over the distinct batches.
    config, ensemble, _ = make()
    config = config._replace(learning_rate=0.0)
    method = vgd.make_vgd(
        config, ensemble, SCHEDULE, toy.make_eps_fn, toy.OBS_DIM, toy.CHUNK
    )
    params, state = toy.to_jax(toy.weights()), method.init(jax.random.key(0))
    store = filled_replay()
    _, metrics = method.update(state, store, params, key, 0)
    for i in range(UTD):
        batch = jax.tree.map(lambda leaf, i=i: leaf[i], batches)
        chunk, _ = method.act(state, params, batch.next_obs, noise[i], 0)
        next_q = ensemble.apply(
            state.critic.target_params, batch.next_obs, chunk.reshape(BATCH, -1)
        )
        y = td.td_target(batch, next_q, config.td)
        q = ensemble.apply(state.critic.params, batch.obs, batch.action)
        losses.append(float(td.critic_loss(q, y)))
    assert len(set(losses)) == UTD
    np.testing.assert_allclose(metrics["train/critic_loss"], np.mean(losses), rtol=1e-5)


@pytest.mark.parametrize("guiding", ["current", "target"])
def test_whole_update_agrees_with_float64(guiding):
    config, _, method = make(scale=0.02, critics=guiding)
    params = toy.to_jax(toy.weights())
    state = with_other_targets(method)
    key, fresh = jax.random.key(3), transitions(1, ENVS)
    store = replay_lib.add(filled_replay(), fresh)
    out, _ = jax.jit(method.update)(state, store, params, key, 0)

    sample_key, noise_key = jax.random.split(key)
    batches = replay_lib.sample(store, sample_key, (UTD, BATCH))
    noise = np.asarray(jax.random.normal(noise_key, (UTD, BATCH, *toy.CHUNK)))
    critics = reference.unstack(state.critic.params)
    targets = reference.unstack(state.critic.target_params)
    moments = list(
        zip(reference.zeros_like(critics), reference.zeros_like(critics), strict=True)
    )
    for i in range(UTD):
        batch = Transition(*(np.asarray(leaf[i], np.float64) for leaf in batches))
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
            config.td,
            lr=config.learning_rate,
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
    *_, by_target = make(critics="target")
    params, state = toy.to_jax(toy.weights()), with_other_targets(by_target)
    swapped = state.critic._replace(params=state.critic.target_params)
    swapped = state._replace(critic=swapped)
    obs = jax.random.normal(jax.random.key(1), (ENVS, toy.OBS_DIM))
    noise = jax.random.normal(jax.random.key(2), (ENVS, 4, *toy.CHUNK))
    for own in (noise, noise[:, 0]):
        found = by_target.act(state, params, obs, own, 0)
        expected = by_current.act(swapped, params, obs, own, 0)
        jax.tree.map(np.testing.assert_array_equal, found, expected)
        other, _ = by_current.act(state, params, obs, own, 0)
        assert np.abs(found[0] - other).max() > 1e-3


@pytest.mark.parametrize("scale", [0.0, 0.05])
def test_of_several_candidates_the_one_of_highest_value_acts(scale):
    _, ensemble, method = make(scale=scale)
    params, count = toy.to_jax(toy.weights()), 4
    state = method.init(jax.random.key(0))
    obs = jax.random.normal(jax.random.key(1), (ENVS, toy.OBS_DIM))
    noise = jax.random.normal(jax.random.key(2), (ENVS, count, *toy.CHUNK))
    act = jax.jit(method.act)
    chunk, metrics = act(state, params, obs, noise, 0)
    # Candidate by candidate, each decoded by itself.
    each = [act(state, params, obs, noise[:, c], 0)[0] for c in range(count)]
    value = np.stack(
        [
            ensemble.apply(state.critic.params, obs, c.reshape(ENVS, -1)).min(0)
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


def test_held_noise_stays_for_its_chunks_and_episodes_take_turns():
    key, seeds = jax.random.key(0), jnp.uint32([0, 1, 2, 3, 4])
    arguments = (("tanh_randn", "randn"), (1, 3))
    noise = np.stack(
        [
            vgd.held_noise(*arguments, key, seeds, jnp.full(5, c, jnp.int32), (4, 2))
            for c in range(7)
        ]
    )
    # Seeds modulo 4: (tanh, 1), (tanh, 3), (randn, 1), (randn, 3), (tanh, 1).
    for episode, hold in enumerate((1, 3, 1, 3, 1)):
        changes = [
            not np.array_equal(a, b)
            for a, b in zip(noise[:-1, episode], noise[1:, episode], strict=True)
        ]
        assert changes == [(c + 1) % hold == 0 for c in range(6)]
    kinds = [np.abs(noise[:, e]).max() > 1 for e in range(5)]
    assert kinds == [False, False, True, True, False]
    plain = vgd.held_noise(("randn",), (1,), key, seeds, jnp.full(5, 6), (4, 2))
    np.testing.assert_array_equal(
        plain, vgd.start_noise("randn", key, seeds, jnp.full(5, 6), (4, 2))
    )


def test_scale_zero_acts_as_plain_ddim_bit_for_bit():
    _, _, method = make(scale=0.0)
    params = toy.to_jax(toy.weights())
    state = method.init(jax.random.key(0))
    obs = jax.random.normal(jax.random.key(1), (ENVS, toy.OBS_DIM))
    noise = jax.random.normal(jax.random.key(2), (ENVS, *toy.CHUNK))
    chunk, stats = jax.jit(method.act)(state, params, obs, noise, 0)
    # Weights as arguments here too: XLA rounds otherwise where it knows them.
    plain = jax.jit(
        lambda params, x, obs: ddim_decode(toy.make_eps_fn(params), SCHEDULE, x, obs)[0]
    )(params, noise, obs)
    np.testing.assert_array_equal(chunk, plain)
    assert stats == {}


def test_lambda_ramps_with_updates():
    _, _, method = make(scale=0.05, warmup=100)
    params = toy.to_jax(toy.weights())
    obs = jnp.zeros((ENVS, toy.OBS_DIM))
    noise = jax.random.normal(jax.random.key(2), (ENVS, *toy.CHUNK))
    state = method.init(jax.random.key(0))
    for updates, share in ((0, 0.0), (25, 0.25), (100, 1.0), (500, 1.0)):
        now = state._replace(num_updates=jnp.int32(updates))
        _, stats = method.act(now, params, obs, noise, 0)
        np.testing.assert_allclose(stats["guide/lambda_base"], 0.05 * share, rtol=1e-6)


def test_td_statistic_lowers_the_weight_of_the_next_call():
    _, _, method = make()
    params = toy.to_jax(toy.weights())
    obs = jnp.zeros((ENVS, toy.OBS_DIM))
    noise = jax.random.normal(jax.random.key(2), (ENVS, *toy.CHUNK))
    state = method.init(jax.random.key(0))
    calm = method.act(state, params, obs, noise, 0)[1]["guide/weight_mean"]
    state = state._replace(td_error=jnp.float32(100.0))
    unstable = method.act(state, params, obs, noise, 0)[1]["guide/weight_mean"]
    # Not exact: from the second guided step on, z itself depends on the weight.
    np.testing.assert_allclose(unstable / calm, np.exp(-1.0), rtol=1e-3)


def test_same_key_same_bits():
    _, _, method = make()
    params = toy.to_jax(toy.weights())
    run = jax.jit(method.update)
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
    _, _, method = make()
    params = toy.to_jax(toy.weights())
    run = jax.jit(method.update, donate_argnums=0)
    state, store = method.init(jax.random.key(0)), filled_replay()
    for i in range(3):
        before = jax.tree.leaves(state)
        state, _ = run(state, store, params, jax.random.key(i), 0)
        assert all(leaf.is_deleted() for leaf in before)
    assert int(state.num_updates) == 3 * UTD


@pytest.mark.parametrize("kind", sorted(vgd.START_NOISES))
def test_start_noise_belongs_to_the_episode_not_to_the_slot(kind):
    key = jax.random.key(0)
    seeds = jnp.uint32([11, 22, 33])
    index = jnp.int32([0, 4, 4])
    noise = vgd.start_noise(kind, key, seeds, index, toy.CHUNK)
    swapped = vgd.start_noise(kind, key, seeds[::-1], index[::-1], toy.CHUNK)
    np.testing.assert_array_equal(noise, swapped[::-1])
    alone = vgd.start_noise(kind, key, seeds[1:2], index[1:2], toy.CHUNK)
    np.testing.assert_array_equal(noise[1], alone[0])
    assert np.abs(noise).max() > 0.5 and not np.array_equal(noise[1], noise[2])


def test_tanh_noise_is_the_tanh_of_randn():
    arguments = (jax.random.key(0), jnp.uint32([5]), jnp.int32([2]), (50, 50))
    randn = vgd.start_noise("randn", *arguments)
    np.testing.assert_array_equal(
        vgd.start_noise("tanh_randn", *arguments), jnp.tanh(randn)
    )
    assert abs(float(randn.std()) - 1) < 0.05
