"""Scripted experts: they solve their tasks, operators differ, motion by hand."""

import numpy as np
import pytest

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.demos import can, lift, square
from dynvgd_jax.demos.experts import SCRIPTS, get_script, make_expert
from dynvgd_jax.demos.motion import (
    CLOSE,
    CREEP_SPEED,
    OPEN,
    Aim,
    Scene,
    SmoothNoise,
    nearest_yaw,
    pointing_down,
    rotation_vector,
    servo,
    wrap,
    yaw_of,
)
from dynvgd_jax.demos.operators import draw_style

pytestmark = pytest.mark.usefixtures("simulators")


def make_scene(**changes):
    scene = Scene(
        eef_pos=np.array([0.1, -0.2, 1.0]),
        eef_rot=pointing_down(np.pi / 2),
        width=0.08,
        object_pos=np.array([0.1, -0.2, 0.86]),
        object_rot=np.eye(3),
    )
    return scene._replace(**changes)


def make_aim(scene, **changes):
    aim = Aim(scene.eef_pos, yaw_of(scene.eef_rot), OPEN, speed=1.0, brake=100.0)
    return aim._replace(**changes)


def test_angles_by_hand():
    assert wrap(3 * np.pi / 2) == pytest.approx(-np.pi / 2)
    assert wrap(0.4, 0.5) == pytest.approx(-0.1)
    # modulo pi, 3.0 is -0.1416, which is nearer to 0.2
    assert nearest_yaw(3.0, 0.2) == pytest.approx(3.0 - np.pi)
    assert yaw_of(pointing_down(0.7)) == pytest.approx(0.7)


def test_rotation_vector_of_known_turns():
    np.testing.assert_array_equal(rotation_vector(np.eye(3)), np.zeros(3))
    c, s = np.cos(0.3), np.sin(0.3)
    about_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    np.testing.assert_allclose(rotation_vector(about_z), [0, 0, 0.3], atol=1e-12)
    turn = pointing_down(1.2) @ pointing_down(0.9).T
    np.testing.assert_allclose(rotation_vector(turn), [0, 0, 0.3], atol=1e-12)


def test_servo_by_hand():
    scene = make_scene()
    # 1 cm ahead at gain 1: 0.01 m / 0.05 m; 0.1 rad at gain 1: 0.1 / 0.5
    aim = make_aim(
        scene, pos=scene.eef_pos + [0, 0.01, 0], yaw=np.pi / 2 + 0.1, grip=CLOSE
    )
    expected = [0, 0.2, 0, 0, 0, 0.2, 1]
    np.testing.assert_allclose(servo(scene, aim, gain=1.0), expected, atol=1e-9)
    # far away the length is the speed, close to the aim the brake holds it down
    far = make_aim(scene, pos=scene.eef_pos + [0.3, -0.4, 0], speed=0.5)
    np.testing.assert_allclose(servo(scene, far)[:3], [0.3, -0.4, 0], atol=1e-9)
    slow = far._replace(pos=scene.eef_pos + [0, 0, 0.04], brake=5.0)
    assert servo(scene, slow)[2] == pytest.approx(CREEP_SPEED + 5.0 * 0.04)


def test_smooth_noise_has_unit_deviation_and_memory():
    noise = SmoothNoise(np.random.default_rng(0), 2000, memory_steps=10.0)
    first = noise.draw().copy()
    values = np.array([noise.draw() for _ in range(10)])
    assert values.std() == pytest.approx(1.0, abs=0.05)
    # after one memory length the correlation has fallen to 1 / e
    assert np.corrcoef(first, values[-1])[0, 1] == pytest.approx(np.exp(-1), abs=0.07)


def test_can_phases_can_be_read_off_the_scene():
    style = can.CanStyle()
    grasp = np.array([0.1, -0.2, 0.86 + style.grasp_height])
    assert can.decide(style, make_scene()).grip == OPEN
    assert can.decide(style, make_scene(eef_pos=grasp)).grip == CLOSE
    held = make_scene(eef_pos=grasp, width=0.05)
    aim = can.decide(style, held)
    assert aim.grip == CLOSE and aim.pos[2] > grasp[2]
    over_bin = np.array([style.drop_x, style.drop_y, 0.86])
    placed = make_scene(eef_pos=over_bin, object_pos=over_bin, width=0.05)
    assert can.decide(style, placed).grip == OPEN
    missed = make_scene(eef_pos=grasp + [0.03, 0, 0], width=0.01)
    aim = can.decide(style, missed)
    assert aim.grip == CLOSE and aim.pos[2] > 0.9
    resigned = can.decide(style._replace(gives_up=1.0), missed)
    np.testing.assert_array_equal(resigned.pos[:2], can.HOME_XY_M)


def test_hasty_operator_lets_go_on_the_way():
    held = np.array([0.1, 0.2, 1.0])
    scene = make_scene(eef_pos=held, object_pos=held, width=0.05)
    assert can.decide(can.CanStyle(), scene).grip == CLOSE
    assert can.decide(can.CanStyle(let_go_y=0.15), scene).grip == OPEN


def test_square_handle_never_ends_pointing_away_from_the_base():
    style = square.SquareStyle()
    for nut_yaw in np.linspace(-np.pi, np.pi, 100):
        grasp = square._grasp_yaw(style, nut_yaw, square.START_YAW_RAD)
        # across the handle
        assert abs(np.cos(grasp - nut_yaw)) < 1e-9
        turn = square._turned(grasp)
        assert square.LEAST_TURN_RAD < turn < square.MOST_TURN_RAD
        final = nut_yaw + square._final_turn(style, turn, nut_yaw) - turn
        assert min(abs(wrap(final - f)) for f in square.FINAL_YAWS_RAD) < 1e-9


def test_styles_are_drawn_from_their_spreads():
    rng = np.random.default_rng(0)
    spreads = {"speed": 0.5, "hover": (0.1, 0.2), "gives_up": [0.0, 1.0]}
    drawn = [draw_style(spreads, rng) for _ in range(200)]
    assert {d["speed"] for d in drawn} == {0.5}
    assert {d["gives_up"] for d in drawn} == {0.0, 1.0}
    hovers = [d["hover"] for d in drawn]
    assert 0.1 <= min(hovers) < 0.11 and 0.19 < max(hovers) <= 0.2


@pytest.mark.parametrize("task_name", SCRIPTS)
def test_every_operator_fits_its_style(task_name):
    script = get_script(task_name)
    for operator in script.operators.values():
        rng = np.random.default_rng(0)
        script.style(**draw_style(operator.style, rng))
        script.style(**draw_style(operator.after_mishap, rng))


def test_unknown_tasks_and_operators_are_named():
    rng = np.random.default_rng(0)
    with pytest.raises(UserError, match="did you mean 'can'"):
        make_expert("cann", "careful", rng)
    with pytest.raises(UserError, match="careful, swift"):
        make_expert("can", "clumsy", rng)


@pytest.fixture
def environments(simulators):
    from dynvgd_jax.envs.robosuite.vector import RobosuiteVectorEnv

    made = {}

    def get(task_name):
        if task_name not in made:
            made[task_name] = RobosuiteVectorEnv(task_name, 2, None)
        return made[task_name]

    yield get
    for venv in made.values():
        venv.close()


@pytest.mark.parametrize("task_name, limit", [("lift", 60), ("can", 160)])
def test_noise_free_expert_succeeds(environments, task_name, limit):
    check_expert(environments(task_name), task_name, limit)


def test_noise_free_square_expert_succeeds(environments):
    check_expert(environments("square"), "square", 160)


def check_expert(venv, task_name, limit):
    indices = np.arange(2)
    venv.reset(indices, np.array([11, 12]))
    rng = np.random.default_rng(0)
    experts = [make_expert(task_name, "expert", rng) for _ in indices]
    held = np.zeros(2, int)  # control steps of success in a row
    for _ in range(limit):
        actions = [e.act(env) for e, env in zip(experts, venv.envs)]
        result = venv.step(indices, np.array(actions)[:, None])
        held = np.where(result.success[:, 0], held + 1, 0)
    assert (held >= 8).all()


def test_compiled_engine_keeps_the_scene_current(environments):
    """Experts read the simulator; its observation must tell the same story."""
    from dynvgd_jax.demos.motion import read_scene

    venv = environments("lift")
    venv.reset(np.arange(2), np.array([3, 4]))
    for _ in range(3):
        venv.step(np.arange(2), np.full((2, 1, 7), 0.3))
    for env, obs in zip(venv.envs, venv.raw_obs):
        scene = read_scene(env, get_script("lift").object_body(env))
        np.testing.assert_allclose(scene.eef_pos, obs[:3], atol=1e-12)
        np.testing.assert_allclose(scene.width, obs[7] - obs[8], atol=1e-12)
        np.testing.assert_allclose(scene.object_pos, obs[9:12], atol=1e-12)


def test_lift_gives_up_or_tries_again():
    eef = np.array([0.0, 0.0, 0.83])
    scene = make_scene(eef_pos=eef, object_pos=eef + [0.03, 0, -0.01], width=0.01)
    again = lift.decide(lift.LiftStyle(), scene)
    assert again.grip == CLOSE and again.pos[2] < 0.92
    resigned = lift.decide(lift.LiftStyle(gives_up=1.0), scene)
    assert resigned.grip == CLOSE and resigned.pos[2] == 0.95
