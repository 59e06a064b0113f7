"""The compiled engine: whole action chunks of one environment without Python.

Equal to robosuite 1.4.1's `env.step`, which calls `mj_forward` twice and a Python
controller before each `mj_step`; here each substep is `mj_step1`, the controller,
`mj_step2`.
"""

import hashlib
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import mujoco
import numpy as np
from numba import njit

from dynvgd_jax.envs import libmujoco, osc, readout, scene, snapshot
from dynvgd_jax.envs.stock import ChunkOutcome
from dynvgd_jax.envs.tasks import Task

SUBSTEPS = 25  # 500 Hz physics, 20 Hz control
_GRIP_SPEED = 0.01  # change of the finger command per substep (PandaGripper)


class Control(NamedTuple):
    """The controllers' state; A arms. Written in place by the compiled step."""

    goal: np.ndarray  # [A, 12] target position and rotation of the hand
    rest_joint: np.ndarray  # [A, 7] posture that the null space is pulled to
    grip: np.ndarray  # [A, 2] finger commands in [-1, 1]
    first_mass: np.ndarray  # [A, 7, 7] inertia that robosuite's first substep uses
    fresh: np.ndarray  # [A] 0 before the first substep of an episode, then 1


@njit(nogil=True, error_model="numpy")
def _arm_inertia(scene, arm, mass):
    """Writes the arm's block [7, 7] of the sparse inertia matrix."""
    first = scene.arm_dofs[arm, 0]
    for i in range(7):
        dof = scene.arm_dofs[arm, i]
        address = scene.dof_madr[dof]
        while dof >= first:
            mass[i, dof - first] = scene.qM[address]
            mass[dof - first, i] = scene.qM[address]
            address += 1
            dof = scene.dof_parent[dof]


@njit(nogil=True, error_model="numpy")
def _control_arm(scene, control, arm, action, is_policy_step):
    """Writes the arm's and the fingers' commands for one substep."""
    site = scene.grip_sites[arm]
    position = scene.site_xpos[site]
    rotation = scene.site_xmat[site].reshape(3, 3)
    goal = control.goal[arm]
    if is_policy_step:
        osc.set_goal(action, position, rotation, scene.scale[arm], goal)
    mass = np.zeros((7, 7))
    anchors, axes = np.empty((7, 3)), np.empty((7, 3))
    q, qd, bias = np.empty(7), np.empty(7), np.empty(7)
    for i in range(7):
        joint, dof = scene.joints[arm, i], scene.arm_dofs[arm, i]
        anchors[i] = scene.xanchor[joint]
        axes[i] = scene.xaxis[joint]
        q[i] = scene.qpos[scene.arm_qpos[arm, i]]
        qd[i], bias[i] = scene.qvel[dof], scene.qfrc_bias[dof]
    if control.fresh[arm] == 0.0:
        mass[:] = control.first_mass[arm]
        control.fresh[arm] = 1.0
    else:
        _arm_inertia(scene, arm, mass)
    torque = osc.arm_torques(
        position,
        rotation,
        anchors,
        axes,
        mass,
        q,
        qd,
        bias,
        control.rest_joint[arm],
        goal,
        scene.gains[arm],
    )
    for i in range(7):
        low, high = scene.torque_range[arm, i, 0], scene.torque_range[arm, i, 1]
        scene.ctrl[scene.arm_actuators[arm, i]] = min(max(torque[i], low), high)
    step = _GRIP_SPEED * np.sign(action[6])
    for i in range(2):
        command = control.grip[arm, i] + (step if i == 1 else -step)
        control.grip[arm, i] = min(max(command, -1.0), 1.0)
        middle, half = scene.finger_range[arm, i, 0], scene.finger_range[arm, i, 1]
        actuator = scene.finger_actuators[arm, i]
        scene.ctrl[actuator] = middle + half * control.grip[arm, i]


def _source_stamp() -> int:
    """Returns a number that changes with the compiled sources and the libraries."""
    digest = hashlib.sha256()
    for module in (libmujoco, osc, readout, scene):
        digest.update(Path(module.__file__).read_bytes())
    digest.update(Path(__file__).read_bytes())
    for package in ("robosuite", "mujoco", "numba"):
        digest.update(metadata.version(package).encode())
    return int.from_bytes(digest.digest()[:7], "big")


@cache
def compiled_chunk() -> Callable[..., int]:
    """Returns the compiled function that runs one chunk; see `run_chunk` inside.

    numba keeps the machine code beside this file and looks only at this file's date,
    so the stamp of all sources is part of the function: a change makes a new entry.
    The first call on a machine compiles for about 20 s, later ones load.
    """
    stamp = _source_stamp()

    @njit(nogil=True, cache=True, error_model="numpy")
    def run_chunk(step1, step2, model, data, scene, control, actions, out):
        """Runs actions [Ta, 7 A]; fills out = (obs, reward, success).

        Returns 0, or 1 as soon as MuJoCo warned or time ran backwards.
        """
        if stamp < 0:  # never; ties the machine code to the sources
            return 2
        obs, reward, success = out
        for k in range(len(actions)):
            before = scene.time[0]
            for substep in range(SUBSTEPS):
                libmujoco.call_model_data(step1, model, data)
                for arm in range(len(scene.grip_sites)):
                    action = actions[k, 7 * arm : 7 * arm + 7]
                    _control_arm(scene, control, arm, action, substep == 0)
                libmujoco.call_model_data(step2, model, data)
            if scene.time[0] <= before or scene.warnings.any():
                return 1
            success[k] = readout.is_success(scene)
            reward[k] = 1.0 if success[k] else 0.0
        if not (np.isfinite(scene.qpos).all() and np.isfinite(scene.xpos).all()):
            return 1
        readout.observe(scene, obs)
        return 0

    return run_chunk


class CompiledStepper:
    """Runs chunks of one robosuite environment through the compiled function.

    The environment's `sim.data` stays the simulator's only state, so robosuite's
    accessors remain valid between chunks; its controllers are not used.
    Errors: RuntimeError where MuJoCo's memory is not laid out as expected.
    """

    def __init__(self, env: Any, task: Task):
        self.env, self.task = env, task
        model = env.sim.model._model
        # nothing reads the wrist's force sensors, which cost a pass over all bodies
        model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_SENSOR
        self._scene = scene.make_scene(env, task)
        arms = task.num_arms
        self._control = Control(
            goal=np.zeros((arms, 12)),
            rest_joint=np.zeros((arms, 7)),
            grip=np.zeros((arms, 2)),
            first_mass=np.zeros((arms, 7, 7)),
            fresh=np.zeros(arms),
        )
        self._chunk = compiled_chunk()
        self._addresses = (
            libmujoco.function_address("mj_step1"),
            libmujoco.function_address("mj_step2"),
            model._address,
            env.sim.data._data._address,
        )

    def start(self) -> None:
        """Takes the controllers' state over from robosuite after a reset."""
        state = snapshot.read_controllers(self.env)
        state["first_mass"] = state["reading_mass_matrix"]
        for name, array in self._control._asdict().items():
            array[:] = state[name]

    def run(self, actions: np.ndarray) -> ChunkOutcome:
        """Runs raw actions [Ta, Da] float64; holds the GIL only at both ends."""
        length = len(actions)
        out = (
            np.empty(self.task.obs_dim),
            np.zeros(length),
            np.zeros(length, np.bool_),
        )
        code = self._chunk(*self._addresses, self._scene, self._control, actions, out)
        return ChunkOutcome(*out, bool(code))

    def get_state(self) -> dict[str, np.ndarray]:
        """Returns everything that the rest of the episode depends on."""
        control = {k: v.copy() for k, v in self._control._asdict().items()}
        return {**snapshot.read_physics(self.env), **control}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Continues from a state of `get_state`, bit for bit."""
        snapshot.write_physics(self.env, state)
        for name, array in self._control._asdict().items():
            array[:] = state[name]
