import logging
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.normalize import Normalization, normalize_obs
from dynvgd_jax.envs.robosuite import ENGINES, build, tasks, vector
from dynvgd_jax.envs.robosuite.build import build_env
from dynvgd_jax.envs.robosuite.vector import RobosuiteVectorEnv
from tests.support.threads import no_threads_left

pytestmark = pytest.mark.usefixtures("simulators")

LIFT = Normalization(
    obs_min=np.linspace(-1.0, 0.0, 19, dtype=np.float32),
    obs_max=np.linspace(1.0, 3.0, 19, dtype=np.float32),
    action_min=np.full(7, -0.5, np.float32),
    action_max=np.full(7, 1.0, np.float32),
)


@pytest.fixture
def make(simulators):
    """Builds vector environments and closes them."""
    made = []

    def build(*args, **options):
        made.append(RobosuiteVectorEnv(*args, **options))
        return made[-1]

    yield build
    for env in made:
        env.close()


def chunks(seed, count, env, length=4):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (count, 1, length, env.sizes.action_dim))


def play(env, index, seed, count=4):
    """Returns everything that one episode's first chunks show, as one tuple."""
    seen = [env.reset([index], [seed])[0]]
    for action in chunks(seed, count, env):
        result = env.step([index], action)
        seen += [part[0] for part in result]
    return [*seen, env.raw_obs[index].copy()]


def assert_same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("engine", ["compiled", "robosuite"])
@pytest.mark.parametrize("name", ["lift", "can"])
def test_an_episode_depends_on_its_seed_only(make, engine, name):
    env = make(name, 2, None, engine=engine, num_threads=2)
    assert env.engine == engine
    first = play(env, 0, 3, 2)
    play(env, 1, 9, 3)  # another history in the other slot
    assert_same(first, play(env, 1, 3, 2))
    assert_same(first, play(env, 0, 3, 2))


@pytest.mark.parametrize(
    "engine", ["compiled", pytest.param("exact", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", list(tasks.TASKS))
def test_resets_are_robosuites_own(make, engine, name):
    """Equal bits for equal seeds, whatever happened before: an equal distribution.

    `plain` is new, `env` has been through other tests (tests/support/simulators.py).
    """
    task = tasks.get_task(name)
    plain, env = build_env(task), make(name, 1, None, engine=engine)
    for seed in (0, 1, 2, 3_000_000_000):
        np.random.seed(seed)
        expected = build.observe(task, plain.reset())
        env.reset([0], [seed])
        np.testing.assert_array_equal(env.raw_obs[0], expected)
        qpos = env.envs[0].sim.data.qpos
        np.testing.assert_array_equal(qpos, plain.sim.data.qpos)
        env.step([0], chunks(seed, 1, env)[0])


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("lift", "compiled"),
        pytest.param("can", "exact", marks=pytest.mark.slow),
        pytest.param("square", "exact", marks=pytest.mark.slow),
        ("transport", "compiled"),
    ],
)
def test_thread_count_changes_no_bit(make, monkeypatch, name, engine):
    task = tasks.get_task(name)
    built = [build.build_env(task) for _ in range(5)]
    results = []
    for threads in (1, 2, 4):
        simulators = iter(built)
        monkeypatch.setattr(vector, "build_env", lambda _, it=simulators: next(it))
        env = make(name, 5, None, engine=engine, num_threads=threads)
        assert env.num_threads == threads
        seen = [env.reset(np.arange(5), np.arange(5) + 50)]
        for seed in range(3):
            actions = np.random.default_rng(seed).uniform(
                -1, 1, (5, 4, env.sizes.action_dim)
            )
            seen += list(env.step(np.arange(5), actions))
        seen.append(env.raw_obs.copy())
        results.append(seen)
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", list(tasks.TASKS))
def test_a_restored_state_continues_bit_for_bit(make, engine, name):
    env = make(name, 1, None, engine=engine)
    env.reset([0], [4])
    before, after = chunks(0, 2, env), chunks(1, 3, env)
    if name == "transport" and engine == "robosuite":
        before, after = before[:1], after[:1]
    for action in before:
        env.step([0], action)
    state = env.get_state()
    poses = env.envs[0].sim.data.body_xpos.copy()
    expected = [part for action in after for part in env.step([0], action)]
    env.reset([0], [77])
    env.step([0], before[0])
    env.set_state(state)
    np.testing.assert_array_equal(env.envs[0].sim.data.body_xpos, poses)
    got = [part for action in after for part in env.step([0], action)]
    assert_same(expected, got)
    for key, value in env.get_state().items():
        assert value.shape == state[key].shape
    assert state["episode_seed"] == [4] and state["episode_chunks"] == [len(before)]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_state_right_after_a_reset_continues_too(make, engine):
    env = make("lift", 1, None, engine=engine)
    env.reset([0], [4])
    state, action = env.get_state(), chunks(0, 1, env)[0]
    expected = env.step([0], action)
    env.set_state(state)
    assert_same(expected, env.step([0], action))


def test_a_state_continues_in_another_environment_bit_for_bit(make):
    """As the audit's branches do: one state in all environments, played alike."""
    env = make("can", 2, None)
    env.reset([0, 1], [4, 77])
    before, after = chunks(0, 2, env), chunks(1, 2, env)
    for action in before:
        env.step([0, 1], np.repeat(action, 2, 0))
    state = env.get_state()
    env.set_state({key: value[[0, 0]] for key, value in state.items()})
    for action in after:
        for part in env.step([0, 1], np.repeat(action, 2, 0)):
            np.testing.assert_array_equal(part[0], part[1])
    np.testing.assert_array_equal(*env.raw_obs)


def test_state_of_another_number_of_environments_is_refused(make):
    state = make("lift", 2, None).get_state()
    with pytest.raises(ValueError, match="state of 2 environments, expected 1"):
        make("lift", 1, None).set_state(state)


def test_normalised_at_the_border(make):
    scaled, raw = make("lift", 1, LIFT), make("lift", 1, None)
    obs = scaled.reset([0], [1])
    raw.reset([0], [1])
    np.testing.assert_array_equal(obs, normalize_obs(LIFT, raw.raw_obs))
    # (a + 1) / 2 * 1.5 - 0.5 by hand: 0 -> 0.25, 1 -> 1
    action = np.zeros((1, 2, 7), np.float32)
    action[0, 1] = 1.0
    by_hand = np.where(action == 0.0, 0.25, 1.0)
    scaled.step([0], action)
    raw.step([0], by_hand)
    np.testing.assert_array_equal(scaled.raw_obs, raw.raw_obs)


def test_chunks_may_have_any_length(make):
    env = make("lift", 1, None)
    env.reset([0], [1])
    actions = chunks(0, 1, env, length=6)[0]
    whole = env.step([0], actions)
    env.reset([0], [1])
    parts = [env.step([0], actions[:, k : k + 1]) for k in range(6)]
    np.testing.assert_array_equal(whole.obs, parts[-1].obs)
    assert whole.reward.shape == (1, 6)


def test_asynchronous_step(make):
    env = make("lift", 2, None, num_threads=1)
    env.reset([0, 1], [1, 2])
    actions = np.repeat(chunks(0, 1, env)[0], 2, axis=0)
    env.step_async([1, 0], actions)
    for call in (env.get_state, lambda: env.reset([0], [1])):
        with pytest.raises(RuntimeError, match="step_wait first"):
            call()
    result = env.step_wait()
    assert result.obs.shape == (2, 19)
    with pytest.raises(RuntimeError, match="without step_async"):
        env.step_wait()
    env.reset([0, 1], [1, 2])
    assert_same(result, env.step([1, 0], actions))
    # two groups in flight, waited for in the order of their start
    env.reset([0, 1], [1, 2])
    env.step_async([1], actions[:1])
    env.step_async([0], actions[1:])
    with pytest.raises(RuntimeError, match="step_wait first"):
        env.step_async([1], actions[:1])
    for row in (0, 1):
        np.testing.assert_array_equal(env.step_wait().obs[0], result.obs[row])


def test_bad_calls_never_reach_the_physics(make):
    env = make("lift", 2, None)
    env.reset([0, 1], [1, 2])
    time = [e.sim.data.time for e in env.envs]
    good = np.zeros((2, 4, 7))
    broken = good.copy()
    broken[1, 2, 3] = np.nan
    bad = [
        ([0, 1], broken, "NaN"),
        ([0, 1], np.full((2, 4, 7), np.inf), "NaN"),
        ([0, 1], good[:, :, :6], "expected"),
        ([0, 1], good[:1], "expected"),
        ([0, 1], good[:, :0], "expected"),
        ([0, 1], good[0], "expected"),
        ([0, 0], good, "distinct"),
        ([0, 2], good, "outside"),
        ([-1, 0], good, "outside"),
    ]
    for indices, actions, words in bad:
        with pytest.raises(ValueError, match=words):
            env.step(indices, actions)
    with pytest.raises(ValueError, match="1 seeds for 2"):
        env.reset([0, 1], [1])
    assert [e.sim.data.time for e in env.envs] == time


@pytest.mark.parametrize("engine", ENGINES)
def test_broken_physics_stays_in_its_environment(make, engine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log where it runs
    env = make("lift", 2, None, engine=engine)
    calm = make("lift", 1, None, engine=engine)
    first = env.reset([0, 1], [1, 2])
    calm.reset([0], [2])
    env.envs[0].sim.data.qvel[3] = np.nan
    action = np.zeros((2, 4, 7))
    for _ in range(2):  # the second chunk finds it broken already
        result = env.step([0, 1], action)
        expected = calm.step([0], action[:1])
        np.testing.assert_array_equal(result.fault, [True, False])
        np.testing.assert_array_equal(result.obs[0], first[0])
        assert not result.success[0].any() and not result.reward[0].any()
        np.testing.assert_array_equal(result.obs[1], expected.obs[0])
    env.reset([0], [1])
    assert not env.step([0], action[:1]).fault[0]


def test_velocities_that_explode_are_a_fault(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = make("can", 1, None)
    env.reset([0], [1])
    env.envs[0].sim.data.qvel[8] = 1e11  # beyond MuJoCo's bound, mjMAXVAL
    assert env.step([0], np.zeros((1, 4, 7))).fault[0]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("timestep", [0.0, -0.002])
def test_time_that_does_not_advance_is_a_fault(make, engine, timestep):
    env = make("lift", 1, None, engine=engine)
    env.reset([0], [1])
    model, data = env.envs[0].sim.model._model, env.envs[0].sim.data._data
    model.opt.timestep = timestep
    assert env.step([0], np.zeros((1, 1, 7))).fault[0]
    assert not data.warning.number.any()  # MuJoCo itself saw nothing wrong


def test_another_mujoco_falls_back_with_a_warning(make, monkeypatch, caplog):
    monkeypatch.setattr(vector, "VERIFIED_MUJOCO", "3.0.0")
    with caplog.at_level(logging.WARNING):
        assert make("lift", 1, None).engine == "robosuite"
    assert "was verified with 3.0.0" in caplog.text


def test_wrong_settings_are_named():
    for options, words in (
        ({"engine": "fast"}, "unknown env.engine 'fast'"),
        ({"num_envs": 0}, "num_envs is 0"),
        ({"task_name": "can"}, r"\(19, 7\), task can needs \(23, 7\)"),
    ):
        settings = {
            "task_name": "lift",
            "num_envs": 1,
            "normalization": LIFT,
            **options,
        }
        with pytest.raises(UserError, match=words):
            RobosuiteVectorEnv(**settings)


def test_close_ends_the_threads():
    with no_threads_left():
        env = RobosuiteVectorEnv("lift", 2, None, num_threads=2)
        env.reset([0, 1], [0, 1])
        env.step([0, 1], np.zeros((2, 1, 7)))
        assert any(t.name.startswith("envs") for t in threading.enumerate())
        env.close()


ENDLESS = """
import signal
import numpy as np
from dynvgd_jax.envs.robosuite.vector import RobosuiteVectorEnv

# a shell's background job inherits an ignored SIGINT
signal.signal(signal.SIGINT, signal.default_int_handler)
env = RobosuiteVectorEnv("lift", 2, None, num_threads=2)
try:
    env.reset(np.arange(2), np.arange(2))
    env.step(np.arange(2), np.zeros((2, 4, 7)))
    print("running", flush=True)
    while True:
        env.step(np.arange(2), np.zeros((2, 40, 7)))
finally:
    env.close()
    print("closed", flush=True)
"""


def test_ctrl_c_ends_the_process_and_its_threads():
    """The signal arrives while both threads are inside the compiled function."""
    command = [sys.executable, "-c", ENDLESS]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert out == "closed\n"
    assert "KeyboardInterrupt" in err
