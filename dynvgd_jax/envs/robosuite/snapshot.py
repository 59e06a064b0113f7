"""Reads and writes every hidden state of one robosuite simulator."""

from typing import Any

import numpy as np

from dynvgd_jax.envs.robosuite.headless import mujoco

# Poses are one substep older than the joint state (robosuite reads them without a new
# forward pass), so they cannot be recomputed and belong to the state.
_LAGGED = ("xpos", "xquat", "xmat", "geom_xpos", "geom_xmat", "site_xpos", "site_xmat")
_MODEL_WRITES = ("body_pos", "body_quat")  # PickPlace moves bodies at reset
_READINGS = (  # what an OSC controller remembers of the simulator
    "ee_pos",
    "ee_ori_mat",
    "ee_pos_vel",
    "ee_ori_vel",
    "joint_pos",
    "joint_vel",
    "J_pos",
    "J_ori",
    "J_full",
    "mass_matrix",
)
_PHYSICS = mujoco.mjtState.mjSTATE_INTEGRATION  # joints, time, controls, warm start


def read_physics(env: Any) -> dict[str, np.ndarray]:
    """Returns copies of the simulator's state, the solver's warm start included."""
    model, data = env.sim.model._model, env.sim.data._data
    physics = np.empty(mujoco.mj_stateSize(model, _PHYSICS))
    mujoco.mj_getState(model, data, physics, _PHYSICS)
    state = {"physics": physics}
    state.update({name: np.array(getattr(data, name)) for name in _LAGGED})
    state.update({name: np.array(getattr(model, name)) for name in _MODEL_WRITES})
    return state


def write_physics(env: Any, state: dict[str, np.ndarray]) -> None:
    """Puts the simulator into `state`; clears its warning counters."""
    model, data = env.sim.model._model, env.sim.data._data
    for name in _MODEL_WRITES:
        getattr(model, name)[:] = state[name]
    mujoco.mj_resetData(model, data)
    mujoco.mj_setState(model, data, state["physics"], _PHYSICS)
    mujoco.mj_forward(model, data)  # contacts and the rest of what can be recomputed
    mujoco.mj_setState(model, data, state["physics"], _PHYSICS)  # forward moved it
    for name in _LAGGED:
        getattr(data, name)[:] = state[name]


def read_controllers(env: Any) -> dict[str, np.ndarray]:
    """Returns goals [A, 12], rest joints [A, 7], gripper commands [A, 2] and more.

    After a reset robosuite's controller still holds what it read while it was built,
    before fingers and objects were placed, and the first substep uses that:
    `fresh [A]` is 0 then, and `reading_*` are the old values.
    """
    state = {"goal": [], "rest_joint": [], "grip": [], "fresh": []}
    for robot in env.robots:
        control = robot.controller
        state["goal"].append(np.append(control.goal_pos, control.goal_ori))
        state["rest_joint"].append(control.initial_joint)
        state["grip"].append(np.broadcast_to(robot.gripper.current_action, 2))
        state["fresh"].append(float(control.new_update))
    for name in _READINGS:
        values = [getattr(robot.controller, name) for robot in env.robots]
        state[f"reading_{name}"] = values
    return {key: np.array(value, np.float64) for key, value in state.items()}


def write_controllers(env: Any, state: dict[str, np.ndarray]) -> None:
    """Puts what `read_controllers` returned into robosuite's objects."""
    for i, robot in enumerate(env.robots):
        control = robot.controller
        control.goal_pos = state["goal"][i, :3].copy()
        control.goal_ori = state["goal"][i, 3:].reshape(3, 3).copy()
        control.initial_joint = state["rest_joint"][i].copy()
        control.new_update = bool(state["fresh"][i])
        for name in _READINGS:
            # same memory order as robosuite's own array: BLAS rounds differently else
            reading = np.empty_like(getattr(control, name))
            reading[...] = state[f"reading_{name}"][i]
            setattr(control, name, reading)
        robot.gripper.current_action = state["grip"][i].copy()


def read_samplers(env: Any) -> dict[str, np.ndarray]:
    """Returns the clock of robosuite's observables; all share one rate and phase."""
    observable = next(iter(env._observables.values()))
    clock = [observable._time_since_last_sample, float(observable._sampled)]
    return {"sampler": np.array(clock), "clock": np.array([env.timestep, env.cur_time])}


def write_samplers(env: Any, state: dict[str, np.ndarray]) -> None:
    """Puts the observables' clock back."""
    for observable in env._observables.values():
        observable._time_since_last_sample = float(state["sampler"][0])
        observable._sampled = bool(state["sampler"][1])
    env.timestep, env.cur_time = int(state["clock"][0]), float(state["clock"][1])
