"""The compiled engine: whole action chunks of one environment without Python.

Equal to robosuite 1.4.1's `env.step`, which calls `mj_forward` twice and a Python
controller before each `mj_step`; here each substep is `mj_step1`, the controller,
`mj_step2`.
"""

import hashlib
import math
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numba import config as numba_config
from numba import njit

from dynvgd_jax.envs.robosuite import libmujoco, osc, readout, scene, snapshot
from dynvgd_jax.envs.robosuite import task as task_parts
from dynvgd_jax.envs.robosuite.headless import mujoco
from dynvgd_jax.envs.robosuite.libmujoco import (
    bounding_volumes_view,
    call_jacobian,
    call_model_data,
    doubles,
    function_address,
    integers,
    matrices,
    vectors,
)
from dynvgd_jax.envs.robosuite.stock import ChunkOutcome
from dynvgd_jax.envs.robosuite.task import Task

SUBSTEPS = 25  # 500 Hz physics, 20 Hz control
_GRIP_SPEED = 0.01  # change of the finger command per substep (PandaGripper)


# The controllers' state, one row per arm, written in place by the compiled step.
GOAL = slice(0, 12)  # target position and rotation matrix of the hand
REST = slice(12, 19)  # joint posture that the null space is pulled to
GRIP = slice(19, 21)  # finger commands in [-1, 1]
MASS = slice(21, 70)  # inertia that robosuite's first substep after a reset uses
FRESH = 70  # 0 before the first substep of an episode, then 1
CONTROL_SIZE = 71


@njit(nogil=True, error_model="numpy")
def _arm_inertia(scene, arm, mass):
    """Writes the arm's block [7, 7] of the sparse inertia matrix."""
    entries, starts = doubles(scene.qM), integers(scene.dof_Madr)
    parents = integers(scene.dof_parentid)
    first = scene.first_dof[arm]
    for i in range(7):
        dof = first + i
        address = starts[dof]
        while dof >= first:
            mass[i, dof - first] = entries[address]
            mass[dof - first, i] = entries[address]
            address += 1
            dof = parents[dof]


@njit(nogil=True)
def _exact_torques(functions, scene, control, arm, mass):
    """Returns the arm's torques [7] to the last bit of robosuite's."""
    site = scene.grip_sites[arm]
    jacp, jacr = np.zeros((3, scene.nv)), np.zeros((3, scene.nv))
    _, _, jacobian, model, data = functions
    call_jacobian(jacobian, model, data, jacp.ctypes.data, jacr.ctypes.data, site)
    dof, place = scene.first_dof[arm], scene.first_qpos[arm]
    return osc.exact_arm_torques(
        vectors(scene.site_xpos)[site],
        matrices(scene.site_xmat)[site],
        jacp,
        jacr,
        mass.T,  # symmetric
        doubles(scene.qvel)[: scene.nv],
        dof,
        doubles(scene.qpos)[place : place + 7],
        doubles(scene.qfrc_bias)[dof : dof + 7],
        control[REST],
        control[GOAL],
        scene.stiffness[arm],
        scene.damping[arm],
    )


@njit(nogil=True, error_model="numpy")
def _torques(scene, control, arm, mass):
    """Returns the arm's torques [7], equal to robosuite's up to rounding."""
    site, joint = scene.grip_sites[arm], scene.first_joint[arm]
    dof, place = scene.first_dof[arm], scene.first_qpos[arm]
    return osc.arm_torques(
        vectors(scene.site_xpos)[site],
        matrices(scene.site_xmat)[site],
        vectors(scene.xanchor)[joint : joint + 7],
        vectors(scene.xaxis)[joint : joint + 7],
        mass,
        doubles(scene.qpos)[place : place + 7],
        doubles(scene.qvel)[dof : dof + 7],
        doubles(scene.qfrc_bias)[dof : dof + 7],
        control[REST],
        control[GOAL],
        scene.stiffness[arm],
        scene.damping[arm],
    )


@njit(nogil=True, error_model="numpy")
def _prepare(scene, control, arm, action, is_policy_step):
    """Sets the arm's goal at the start of a control step; returns its inertia [7, 7].

    control: the arm's row of the controllers' state; action: [7].
    """
    if is_policy_step:
        site = scene.grip_sites[arm]
        position = vectors(scene.site_xpos)[site]
        rotation = matrices(scene.site_xmat)[site]
        osc.set_goal(action, position, rotation, scene.scale[arm], control[GOAL])
    mass = np.zeros((7, 7))
    if control[FRESH] == 0.0:
        for i in range(49):
            mass[i // 7, i % 7] = control[MASS.start + i]
        control[FRESH] = 1.0
    else:
        _arm_inertia(scene, arm, mass)
    return mass


@njit(nogil=True, error_model="numpy")
def _command(scene, control, arm, action, torque):
    """Writes the arm's and the fingers' commands for one substep."""
    ctrl = doubles(scene.ctrl)
    for i in range(7):
        low, high = scene.torque_low[arm, i], scene.torque_high[arm, i]
        ctrl[scene.arm_actuators[arm, i]] = min(max(torque[i], low), high)
    step = _GRIP_SPEED * np.sign(action[6])
    for i in range(2):
        command = control[GRIP.start + i] + (step if i == 1 else -step)
        command = min(max(command, -1.0), 1.0)
        control[GRIP.start + i] = command
        ctrl[scene.finger_actuators[arm, i]] = (
            scene.finger_middle[arm, i] + scene.finger_half[arm, i] * command
        )


@njit(nogil=True, error_model="numpy")
def _is_sound(scene, before):
    """Whether time went on, MuJoCo did not warn and the joints are finite numbers."""
    if not doubles(scene.time)[0] > before:
        return False
    counts = integers(scene.warnings)
    for i in range(8):
        if counts[2 * i + 1] != 0:
            return False
    qpos, bad = doubles(scene.qpos), 0
    for i in range(scene.nq):
        bad += not math.isfinite(qpos[i])
    return bad == 0


def _source_stamp() -> int:
    """Returns a number that changes with the compiled sources and the libraries."""
    digest = hashlib.sha256()
    for module in (libmujoco, osc, readout, scene, task_parts):
        digest.update(Path(module.__file__).read_bytes())
    digest.update(Path(__file__).read_bytes())
    for package in ("robosuite", "mujoco", "numba"):
        digest.update(metadata.version(package).encode())
    return int.from_bytes(digest.digest()[:7], "big")


@cache
def compiled_chunk(exact: bool) -> Callable[..., int]:
    """Returns the compiled function that runs one chunk; see `run_chunk` inside.

    exact: robosuite's own arithmetic for the torques; LAPACK makes it slow to compile,
    so only one of the two is.

    numba keeps the machine code beside this file and looks only at this file's date,
    so the stamp of all sources is part of the function: a change makes a new entry.
    The first call on a machine compiles for about 20 s, later ones load.
    """
    stamp = _source_stamp()

    @njit(nogil=True, cache=True, error_model="numpy")
    def run_chunk(functions, scenes, control, actions, obs, reward, success):
        """Runs actions [Ta, 7 A]; fills obs [Do], reward [Ta] and success [Ta].

        functions: addresses of mj_step1, mj_step2, mj_jacSite, mjModel, mjData;
        scenes: the record [1]; control: [A, CONTROL_SIZE]. Returns 0, or 1 as soon as
        the physics broke.
        """
        if stamp < 0:  # never; ties the machine code to the sources
            return 2
        scene = scenes[0]
        step1, step2, _, model, data = functions
        for k in range(len(actions)):
            before = doubles(scene.time)[0]
            for substep in range(SUBSTEPS):
                call_model_data(step1, model, data)
                for arm in range(scene.num_arms):
                    action = actions[k, 7 * arm : 7 * arm + 7]
                    row = control[arm]
                    mass = _prepare(scene, row, arm, action, substep == 0)
                    if exact:
                        torque = _exact_torques(functions, scene, row, arm, mass)
                    else:
                        torque = _torques(scene, row, arm, mass)
                    _command(scene, row, arm, action, torque)
                call_model_data(step2, model, data)
            if not _is_sound(scene, before):
                return 1
            success[k] = readout.is_success(scene)
            reward[k] = 1.0 if success[k] else 0.0
        readout.observe(scene, obs)
        return 0

    return run_chunk


def control_rows(state: dict[str, np.ndarray]) -> np.ndarray:
    """Returns `snapshot.read_controllers`' values as rows [A, CONTROL_SIZE]."""
    rows = np.empty((len(state["goal"]), CONTROL_SIZE))
    rows[:, GOAL] = state["goal"]
    rows[:, REST] = state["rest_joint"]
    rows[:, GRIP] = state["grip"]
    rows[:, MASS] = state["reading_mass_matrix"].reshape(-1, 49)
    rows[:, FRESH] = state["fresh"]
    return rows


def _drop_contacts(env, names) -> None:
    """Takes the geoms of the named objects out of collision detection."""
    model = env.sim.model._model
    for name in names:
        root = model.body_rootid[env.obj_body_id[name]]
        geoms = model.body_rootid[model.geom_bodyid] == root
        model.geom_contype[geoms] = 0
        model.geom_conaffinity[geoms] = 0


class CompiledStepper:
    """Runs chunks of one robosuite environment through the compiled function.

    The environment's `sim.data` stays the simulator's only state, so robosuite's
    accessors remain valid between chunks; its controllers are not used.
    Objects that the task does not use collide with nothing here: they lie far away
    from everything else, so the time of their own contacts is saved (they fall). They
    act on the rest only through the point from which MuJoCo starts all its solvers,
    which moves a solution within the solver's tolerance.
    `keep_unused_contacts` is for comparisons. `exact` keeps them too and computes
    torques with robosuite's own arithmetic: every bit equals robosuite's, for about
    half the speed.

    Raises:
      RuntimeError: where MuJoCo's memory is not laid out as expected, or numba compiles
        nothing.
    """

    def __init__(
        self,
        env: Any,
        task: Task,
        *,
        exact: bool = False,
        keep_unused_contacts: bool = False,
    ):
        if numba_config.DISABLE_JIT:
            raise RuntimeError("NUMBA_DISABLE_JIT is set")
        self.env, self.task = env, task
        model = env.sim.model._model
        if not (exact or keep_unused_contacts):
            _drop_contacts(env, task.unused_objects)
        # nothing reads the wrist's force sensors, which cost a pass over all bodies
        model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_SENSOR
        self._volumes = bounding_volumes_view(model)
        self._num_volumes = int(self._volumes[0])
        self._scene, self._keep = scene.make_scene(env, task)
        self._control = np.zeros((task.num_arms, CONTROL_SIZE))
        self._chunk = compiled_chunk(exact)
        self._functions = (
            function_address("mj_step1"),
            function_address("mj_step2"),
            function_address("mj_jacSite"),
            model._address,
            env.sim.data._data._address,
        )

    def start(self) -> None:
        """Takes the controllers' state over from robosuite after a reset."""
        self._control[:] = control_rows(snapshot.read_controllers(self.env))

    def run(self, actions: np.ndarray) -> ChunkOutcome:
        """Runs raw actions [Ta, Da] float64; holds the GIL only at both ends."""
        obs = np.empty(self.task.obs_dim)
        reward, success = np.zeros(len(actions)), np.zeros(len(actions), bool)
        # Each mj_step1 clears one display flag per bounding volume, those of the visual
        # meshes included (364 kB for one arm). No volumes, no clearing; the
        # collision code itself does not read their number.
        self._volumes[0] = 0
        try:
            code = self._chunk(
                *(self._functions, self._scene, self._control),
                *(actions, obs, reward, success),
            )
        except np.linalg.LinAlgError:  # an exact controller met a non-finite state
            code = 1
        finally:
            self._volumes[0] = self._num_volumes
        return ChunkOutcome(obs, reward, success, code != 0)

    def get_state(self) -> dict[str, np.ndarray]:
        """Returns everything that the rest of the episode depends on."""
        return {**snapshot.read_physics(self.env), "control": self._control.copy()}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Continues from a state of `get_state`, bit for bit."""
        snapshot.write_physics(self.env, state)
        self._control[:] = state["control"]
