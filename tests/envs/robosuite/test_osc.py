import numpy as np
import pytest

from dynvgd_jax.envs.robosuite import build, osc, tasks

pytestmark = pytest.mark.usefixtures("simulators")


def test_cholesky_solves():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(7, 7))
    a = a @ a.T + np.eye(7)
    b = rng.normal(size=7)
    x, lower = b.copy(), a.copy()
    assert osc.factor(lower, 7)
    osc.solve(lower, x, 7)
    np.testing.assert_allclose(x, np.linalg.solve(a, b), rtol=1e-11)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_singular_matrices_get_the_pseudo_inverse(rank):
    rng = np.random.default_rng(rank)
    half = rng.normal(size=(6, rank))
    a, b = half @ half.T, rng.normal(size=6)
    if rank == 3:  # exactly zero rows, where Cholesky fails at once
        a[4:], a[:, 4:] = 0.0, 0.0
    expected = np.linalg.pinv(a, rcond=1e-10, hermitian=True) @ b
    eigenvalues = np.linalg.eigvalsh(a)
    assert (eigenvalues > 1e-10).sum() == rank
    # project the rounding error out of the null space before comparing
    got = osc.pseudo_solve(np.where(np.abs(a) < 1e-15, 0.0, a), b, 6)
    if rank in (3, 6):
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    else:
        assert np.isfinite(got).all()


def test_torques_equal_the_controller_of_robosuite():
    """The reordered formulas against robosuite's own, in 20 random postures."""
    env = build.build_env(tasks.get_task("lift"))
    build.reset_env(env, 0)
    data, robot = env.sim.data._data, env.robots[0]
    control, rng = robot.controller, np.random.default_rng(0)
    rest = control.initial_joint.copy()
    for _ in range(20):
        data.qpos[:7] = rest + rng.normal(0, 0.3, 7)
        data.qvel[:7] = rng.normal(0, 0.5, 7)
        action = rng.uniform(-1.5, 1.5, 6)
        control.new_update = True
        control.set_goal(action)
        expected = control.run_controller()
        goal = np.zeros(12)
        position, rotation = control.ee_pos, np.ascontiguousarray(control.ee_ori_mat)
        osc.set_goal(action, position, rotation, control.output_max, goal)
        np.testing.assert_allclose(goal[:3], control.goal_pos, atol=1e-15)
        np.testing.assert_allclose(goal[3:].reshape(3, 3), control.goal_ori, atol=1e-15)
        got = osc.arm_torques(
            position,
            rotation,
            data.xanchor[:7],
            data.xaxis[:7],
            control.mass_matrix.copy(),
            data.qpos[:7],
            data.qvel[:7],
            data.qfrc_bias[:7],
            rest,
            goal,
            control.kp,
            control.kd,
        )
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


def test_a_rotation_of_zero_keeps_the_old_target():
    goal = np.arange(12.0)
    osc.set_goal(np.zeros(6), np.ones(3), np.eye(3), np.full(6, 0.05), goal)
    np.testing.assert_array_equal(goal, [1, 1, 1, *range(3, 12)])
