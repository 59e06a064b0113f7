"""Lift's physics in MJX, many copies at once, against the CPU engine on all cores.

    pip install "jax[cuda12]==0.9.2" mujoco-mjx==3.3.7
    python -m benchmarks.mjx [--batches=1,16,256,1024,4096] [--limit_s=240] [--json]

MJX takes robosuite's scene with collisions of primitives alone: pads, fingers and hand
as boxes (a finger's and the hand's are the boxes around their meshes), cube and table
top; nothing else collides. It steps 25 times a control step, with torques that hold the
arm up; controller and observations would come on top. Beside it stand `mj_step` on one
core, with the same model and with robosuite's, and the CPU engine with its controller
on all cores. Where MJX is slower than the last at every batch, no run needs it.
"""

import argparse
import sys
import time
from collections.abc import Iterator

from benchmarks.learner_setup import Row, print_row

# isort: split
import jax
import jax.numpy as jnp
import numpy as np
from mujoco import mjx

from benchmarks.rollouts import make_stepper, timed, wandering
from dynvgd_jax.core.cores import usable_cores
from dynvgd_jax.core.jax_start import run_on_devices
from dynvgd_jax.envs.robosuite import build, tasks
from dynvgd_jax.envs.robosuite.control import SUBSTEPS
from dynvgd_jax.envs.robosuite.headless import mujoco

CONTROL_STEPS = 4  # of one timed call, a chunk
# Geoms of the scene that collide in MJX; meshes become the boxes around them.
BOXES = (
    "gripper0_hand_collision",
    "gripper0_finger1_collision",
    "gripper0_finger2_collision",
    "gripper0_finger1_pad_collision",
    "gripper0_finger2_pad_collision",
    "cube_g0",
    "table_collision",
)


def lift_scene():
    """Returns robosuite's Lift at the start of an episode."""
    env = build.build_env(tasks.get_task("lift"))
    build.reset_env(env, 0)
    return env


def of_primitives(env) -> mujoco.MjModel:
    """Returns the scene's model in which boxes alone collide."""
    model = mujoco.MjSpec.from_string(env.sim.model.get_xml()).compile()
    for geom in range(model.ngeom):
        name = mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_GEOM, geom)
        model.geom_contype[geom] = model.geom_conaffinity[geom] = name in BOXES
        if name in BOXES and model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_MESH:
            centre, half = np.split(model.geom_aabb[geom], 2)
            turned = np.zeros(3)
            mujoco.mju_rotVecQuat(turned, centre, model.geom_quat[geom])
            model.geom_pos[geom] += turned
            model.geom_size[geom] = half
            model.geom_type[geom] = mujoco.mjtGeom.mjGEOM_BOX
            model.geom_dataid[geom] = -1
    return model


def held_up(model: mujoco.MjModel, env) -> mujoco.MjData:
    """Returns the episode's start with the torques that hold the arm there."""
    data = mujoco.MjData(model)
    data.qpos[:] = env.sim.data.qpos
    mujoco.mj_forward(model, data)
    robot = env.robots[0]
    data.ctrl[robot._ref_joint_actuator_indexes] = data.qfrc_bias[
        robot._ref_joint_vel_indexes
    ]
    return data


def seconds_of_call(call, state, rounds: int = 3) -> float:
    """Returns the least seconds of `state = call(state)`, compiled before."""
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        state = jax.block_until_ready(call(state))
        times.append(time.perf_counter() - begin)
    return min(times)


def cpu_rows(env, model: mujoco.MjModel, seconds: float) -> Iterator[Row]:
    """Times `mj_step` with both models, and the CPU engine on all cores."""
    own = env.sim.model._model
    for what, used in (("robosuite's scene", own), ("primitives", model)):
        data, begin, done = held_up(used, env), time.perf_counter(), 0
        while time.perf_counter() - begin < seconds:
            mujoco.mj_step(used, data, SUBSTEPS)
            done += 1
        rate = done / (time.perf_counter() - begin)
        yield f"mj_step, {what}, 1 thread", rate, "control steps/s"
    cores, task = usable_cores(), tasks.get_task("lift")
    steppers = [make_stepper(task, "compiled") for _ in range(2 * cores)]
    actions = wandering(np.random.default_rng(0), 204, task.action_dim)
    timed(steppers, cores, actions, 0.1)  # compiles
    rate = timed(steppers, cores, actions, seconds)
    yield f"CPU engine with its controller, {cores} threads", rate, "control steps/s"


def mjx_rows(env, model: mujoco.MjModel, batches, limit_s: float) -> Iterator[Row]:
    """Times MJX for each number of copies until the time is spent."""
    begin = time.perf_counter()
    device_model = mjx.put_model(model)
    one = mjx.put_data(model, held_up(model, env))
    yield "MJX: contacts that it computes", one._impl.ncon, "1"

    def chunk(data):
        def step(data, _):
            return mjx.step(device_model, data), None

        return jax.lax.scan(step, data, None, length=CONTROL_STEPS * SUBSTEPS)[0]

    for batch in batches:
        if time.perf_counter() - begin > limit_s:
            return
        copies = jax.tree.map(lambda x, n=batch: jnp.repeat(x[None], n, 0), one)
        start = time.perf_counter()
        call = jax.jit(jax.vmap(chunk)).lower(copies).compile()
        yield f"MJX, {batch} copies: compile", time.perf_counter() - start, "s"
        if batch == batches[0]:
            # contacts are solved otherwise, the free arm is not
            after, plain = call(copies), held_up(model, env)
            mujoco.mj_step(model, plain, CONTROL_STEPS * SUBSTEPS)
            arm = env.robots[0]._ref_joint_pos_indexes
            error = np.abs(np.asarray(after.qpos[0]) - plain.qpos)[arm].max()
            yield "MJX: arm against mj_step after a chunk", float(error), "rad"
        rate = batch * CONTROL_STEPS / seconds_of_call(call, copies)
        yield f"MJX, {batch} copies", rate, "control steps/s"


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", default="1,16,256,1024,4096")
    parser.add_argument("--limit_s", type=float, default=240, help="begin none after")
    parser.add_argument("--seconds", type=float, default=2, help="of each CPU timing")
    parser.add_argument("--json", action="store_true", help="one object per line")
    options = parser.parse_args(arguments)
    env = lift_scene()
    model, name = of_primitives(env), f"lift, {jax.devices()[0].device_kind}"
    for row in cpu_rows(env, model, options.seconds):
        print_row(name, row, options.json)
    batches = [int(word) for word in options.batches.split(",")]
    for row in mjx_rows(env, model, batches, options.limit_s):
        print_row(name, row, options.json)


if __name__ == "__main__":
    sys.exit(run_on_devices("mjx.py", main))
