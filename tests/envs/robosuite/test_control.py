"""The compiled step against stock robosuite."""

import numpy as np
import pytest

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.demos.experts import make_expert
from dynvgd_jax.envs.robosuite import build, control, libmujoco, snapshot, tasks
from dynvgd_jax.envs.robosuite.control import CompiledStepper, control_rows
from dynvgd_jax.envs.robosuite.headless import mujoco
from dynvgd_jax.envs.robosuite.stock import StockStepper
from dynvgd_jax.envs.robosuite.vector import RobosuiteVectorEnv

pytestmark = pytest.mark.usefixtures("simulators")


def pair(name, **options):
    task = tasks.get_task(name)
    envs = build.build_env(task), build.build_env(task)
    return StockStepper(envs[0], task), CompiledStepper(envs[1], task, **options)


def start(stepper, seed):
    build.reset_env(stepper.env, seed)
    stepper.start()


def used_joints(env, task):
    """Addresses in qpos of everything but the objects that the task does not use."""
    model, places = env.sim.model, []
    for joint in range(model.njnt):
        name = model.joint_id2name(joint)
        if not name.startswith(task.unused_objects or ("-",)):
            width = 7 if model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_FREE else 1
            places += range(model.jnt_qposadr[joint], model.jnt_qposadr[joint] + width)
    return places


def gentle_actions(rng, task, steps):
    """Waving above the table; the fingers move but never meet [steps, Da].

    Contacts double a rounding error every few substeps, those of closed fingers too,
    so that a comparison over a whole episode needs motion without them.
    """
    periods = rng.uniform(6, 12, task.action_dim)
    phases = rng.uniform(0, 2 * np.pi, task.action_dim)
    actions = 0.3 * np.cos(np.arange(steps)[:, None] * 2 * np.pi / periods + phases)
    actions[:, 6::7] = np.sign(np.sin(np.arange(steps) + 0.5))[:, None]
    actions[10, :6] = 0.0  # a rotation of zero keeps the old target
    actions[20, :6] = 3.0  # clipped
    actions[23, :6] = -3.0
    return actions


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        pytest.param("lift", 300, marks=pytest.mark.slow),
        pytest.param("can", 300, marks=pytest.mark.slow),
        ("square", 400),
        ("transport", 80),
    ],
)
def test_whole_episode_equals_robosuite(name, steps):
    stock, compiled = pair(name)
    start(stock, 5)
    start(compiled, 5)
    actions = gentle_actions(np.random.default_rng(5), stock.task, steps)
    joints = used_joints(stock.env, stock.task)
    for chunk in np.split(actions, steps // 4):
        expected, got = stock.run(chunk), compiled.run(chunk)
        np.testing.assert_allclose(got.obs, expected.obs, rtol=0, atol=1e-6)
        np.testing.assert_allclose(
            compiled.env.sim.data.qpos[joints],
            stock.env.sim.data.qpos[joints],
            rtol=0,
            atol=1e-6,
        )
        np.testing.assert_array_equal(got.reward, expected.reward)
        np.testing.assert_array_equal(got.success, expected.success)
        assert not (got.fault or expected.fault)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps"), [("lift", 100), ("can", 100), ("square", 100), ("transport", 30)]
)
def test_the_exact_engine_equals_robosuite_bit_for_bit(name, steps):
    """Hands driven into objects and table, fingers opening and closing."""
    stock, exact = pair(name, exact=True)
    task, rng = stock.task, np.random.default_rng(7)
    start(stock, 7)
    start(exact, 7)
    actions = np.clip(rng.normal(0, 0.5, (steps, task.action_dim)), -1.2, 1.2)
    actions[:, 2::7] -= 0.1
    actions[:, 6::7] = np.sign(np.sin(np.arange(steps) / 8))[:, None]
    actions[5, 3:6] = 0.0  # a rotation of zero keeps the old target
    for chunk in np.split(actions, steps // 5):
        expected, got = stock.run(chunk), exact.run(chunk)
        np.testing.assert_array_equal(got.obs, expected.obs)
        np.testing.assert_array_equal(got.reward, expected.reward)
        np.testing.assert_array_equal(got.success, expected.success)
        for what in ("qpos", "qvel", "ctrl", "qacc_warmstart", "site_xpos"):
            found = getattr(exact.env.sim.data, what)
            np.testing.assert_array_equal(found, getattr(stock.env.sim.data, what))


@pytest.mark.slow
def test_a_whole_handover_equals_robosuite_bit_for_bit():
    """Both hands grasp, one passes the payload on, until both objects are home."""
    stock, exact = pair("transport", exact=True)
    start(stock, 3)
    start(exact, 3)
    expert = make_expert("transport", "expert", np.random.default_rng(0))
    for _ in range(400):
        action = expert.act(stock.env)[None]
        expected, got = stock.run(action), exact.run(action)
        np.testing.assert_array_equal(got.obs, expected.obs)
        np.testing.assert_array_equal(got.reward, expected.reward)
        np.testing.assert_array_equal(got.success, expected.success)
        for what in ("qpos", "qvel", "ctrl", "qacc_warmstart"):
            found = getattr(exact.env.sim.data, what)
            np.testing.assert_array_equal(found, getattr(stock.env.sim.data, what))
        if expected.success[0]:
            break
    assert expected.success[0] and expected.reward[0] == 1.0


@pytest.mark.parametrize("name", ["can", "transport"])
def test_leaving_out_forward_passes_changes_no_bit(name):
    """Robosuite's step, but one pass over the physics per substep instead of three.

    This is the compiled step's schedule with robosuite's own controller: equal bits
    while hand, objects and table collide. So whatever else differs between the two
    engines is rounding in the torques (test_osc.py), blown up by contacts.
    """
    task = tasks.get_task(name)
    plain, short = build.build_env(task), build.build_env(task)
    build.reset_env(plain, 3)
    build.reset_env(short, 3)
    model, data = short.sim.model._model, short.sim.data._data
    due = [True]

    def forward():
        if due.pop() if due else False:
            mujoco.mj_step1(model, data)

    def step(with_udd=True):
        mujoco.mj_step2(model, data)
        due.append(True)

    short.sim.forward, short.sim.step = forward, step
    rng = np.random.default_rng(0)
    for _ in range(15):
        action = rng.uniform(-1, 1, task.action_dim)
        action[2::7] = -1.0
        plain.step(action)
        short.step(action)
        np.testing.assert_array_equal(data.qpos, plain.sim.data.qpos)
        np.testing.assert_array_equal(data.qvel, plain.sim.data.qvel)


@pytest.mark.parametrize("name", list(tasks.TASKS))
def test_each_step_equals_robosuite_while_everything_collides(name):
    """Both start every control step from one state, so that contacts cannot part them.

    The hand is driven down into objects and table. A rare contact blows a rounding
    error up within a single control step, hence nine steps in ten.
    """
    stock, compiled = pair(name, keep_unused_contacts=True)
    start(stock, 3)
    task, rng = stock.task, np.random.default_rng(0)
    errors, commands, touched = [], [], 0
    for _ in range(25):
        state = stock.get_state()
        snapshot.write_physics(compiled.env, state)
        compiled._control[:] = control_rows(state)
        action = rng.uniform(-1, 1, (1, task.action_dim))
        action[:, 2::7] = -1.0
        expected, got = stock.run(action), compiled.run(action)
        qpos = compiled.env.sim.data.qpos - stock.env.sim.data.qpos
        errors.append(max(np.abs(got.obs - expected.obs).max(), np.abs(qpos).max()))
        rows = control_rows(stock.get_state())[:, : control.MASS.start]
        commands.append(np.abs(compiled._control[:, : control.MASS.start] - rows).max())
        np.testing.assert_array_equal(got.success, expected.success)
        touched += stock.env.sim.data.ncon > 0
    assert touched > 10
    assert max(commands) < 1e-12  # goals and finger commands
    assert np.quantile(errors, 0.9) < 1e-6


@pytest.mark.parametrize("name", ["can", "square"])
def test_contacts_of_unused_objects_do_not_matter(name):
    """Robot and task object move the same with and without them."""
    task = tasks.get_task(name)
    with_them = CompiledStepper(build.build_env(task), task, keep_unused_contacts=True)
    without = CompiledStepper(build.build_env(task), task)
    start(with_them, 1)
    start(without, 1)
    joints = used_joints(without.env, task)
    actions = gentle_actions(np.random.default_rng(1), task, 120)
    resting = with_them.env.sim.data
    for chunk in np.split(actions, 30):
        a, b = with_them.run(chunk), without.run(chunk)
        np.testing.assert_allclose(a.obs, b.obs, rtol=0, atol=1e-6)
        qpos = without.env.sim.data.qpos
        np.testing.assert_allclose(resting.qpos[joints], qpos[joints], atol=1e-9)
    unused = with_them.env.obj_body_id[task.unused_objects[0]]
    # by now the unused objects lie on the floor there, 14 m away, and fall here
    assert 0.0 < resting.body_xpos[unused][2] < 0.5
    assert np.linalg.norm(resting.body_xpos[unused][:2]) > 10.0
    assert without.env.sim.data.body_xpos[unused][2] < -15.0


@pytest.mark.parametrize("name", ["can", "square"])
def test_contacts_of_unused_objects_only_tip_the_warm_start(name):
    """Not a bit of robot and task object differs, hard contacts included.

    MuJoCo solves groups of touching bodies apart from each other, but decides once for
    the whole scene where all solvers start: at the last acceleration or at the free
    one. Both lead to one solution, to the solver's tolerance. Here the start is fixed.
    """
    task = tasks.get_task(name)
    pair = [
        CompiledStepper(build.build_env(task), task, keep_unused_contacts=keep)
        for keep in (True, False)
    ]
    for stepper in pair:
        flags = stepper.env.sim.model._model.opt
        flags.disableflags |= mujoco.mjtDisableBit.mjDSBL_WARMSTART
        start(stepper, 4)
    env = pair[0].env
    names = env.robots[0].gripper.contact_geoms
    fingers = [env.sim.model.geom_name2id(geom) for geom in names]
    joints, touched = used_joints(env, task), 0
    actions = np.random.default_rng(4).uniform(-1, 1, (100, 7))
    actions[:, 2] -= 0.6
    for chunk in np.split(actions, 25):
        a, b = (stepper.run(chunk) for stepper in pair)
        np.testing.assert_array_equal(a.obs, b.obs)
        kept, dropped = (stepper.env.sim.data for stepper in pair)
        np.testing.assert_array_equal(kept.qpos[joints], dropped.qpos[joints])
        pairs = dropped.contact.geom[: dropped.ncon]
        hand = np.isin(pairs, fingers).any()
        touched += hand and kept.ncon > dropped.ncon
    assert touched > 5


@pytest.mark.parametrize("name", ["lift", "transport"])
def test_display_flags_left_alone_change_no_bit(name):
    """The number of bounding volumes only sizes a table of flags for the display."""
    task = tasks.get_task(name)
    stepper = CompiledStepper(build.build_env(task), task)
    model = stepper.env.sim.model._model
    actions = np.random.default_rng(0).uniform(-1, 1, (12, task.action_dim))
    actions[:, 2::7] = -1.0
    volumes, results = stepper._volumes, []
    assert volumes[0] == model.nbvh > 1000
    for view in (volumes, np.zeros(1, np.int32)):  # the second leaves the model alone
        stepper._volumes = view
        start(stepper, 2)
        results.append((stepper.run(actions).obs, stepper.env.sim.data.qpos.copy()))
        assert volumes[0] == model.nbvh > 1000
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])


@pytest.mark.parametrize(
    ("name", "body", "height"),
    [("square", "SquareNut", 0.829979), ("can", "Can", 0.86005)],
)
def test_settled_heights_of_this_mujoco(name, body, height):
    """Contact behaviour of MuJoCo 3.3.x; other versions settle elsewhere."""
    task = tasks.get_task(name)
    stepper = CompiledStepper(build.build_env(task), task)
    start(stepper, 0)
    stepper.run(np.zeros((60, 7)))
    env = stepper.env
    assert abs(env.sim.data.body_xpos[env.obj_body_id[body]][2] - height) < 1e-5


def test_a_changed_source_makes_new_machine_code(monkeypatch, tmp_path):
    before = control._source_stamp()
    copy = tmp_path / "osc.py"
    with open(control.osc.__file__) as file:
        copy.write_text(file.read())
    monkeypatch.setattr(control.osc, "__file__", str(copy))
    assert control._source_stamp() == before
    copy.write_text(copy.read_text() + "\n")
    assert control._source_stamp() != before


def test_another_memory_layout_is_refused(monkeypatch):
    task = tasks.get_task("lift")
    env = build.build_env(task)
    real = libmujoco._view
    monkeypatch.setattr(libmujoco, "_view", lambda kind, at: real(kind, at - 4))
    with pytest.raises(RuntimeError, match="laid out"):
        CompiledStepper(env, task)


def test_a_numba_that_compiles_nothing_is_refused(monkeypatch):
    """NUMBA_DISABLE_JIT, as people set it to debug other programs."""
    monkeypatch.setattr(control.numba_config, "DISABLE_JIT", 1)
    with pytest.raises(UserError, match=r"NUMBA_DISABLE_JIT is set.*engine=robosuite"):
        RobosuiteVectorEnv("lift", 1, None)
