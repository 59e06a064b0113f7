"""Demonstrations that could be robosuite's, in robomimic's HDF5 layout."""

import json
from pathlib import Path

import h5py
import numpy as np

from dynvgd_jax.core.observation import observation_slices
from dynvgd_jax.demos.files import DemoEpisode, write_robomimic

ENV_NAMES = {"lift": "Lift", "can": "PickPlaceCan", "square": "NutAssemblySquare"}
# The object's first place, m.
STARTS = {"lift": (0.0, 0.02, 0.83), "can": (0.1, -0.25, 0.86)}
STARTS["square"] = (-0.11, 0.17, 0.83)
OBJECTS = {"lift": "cube", "can": "Can", "square": "SquareNut"}


def env_args(task="square", **changes):
    """Robomimic's words; `controller` updates that part, other names the whole."""
    controller = {"type": "OSC_POSE", "control_delta": True}
    controller |= changes.pop("controller", {})
    kwargs = {"robots": ["Panda"], "controller_configs": controller}
    kwargs |= changes.pop("env_kwargs", {})
    words = {"env_name": ENV_NAMES[task], "env_version": "1.4.1", "type": 1}
    return words | {"env_kwargs": kwargs} | changes


def unit(rng, steps):
    vectors = rng.normal(size=(steps, 4))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def observations(task, steps=12, seed=0, place=None):
    """`[steps, Do]` float32: quaternions of length 1, consistent positions."""
    rng = np.random.default_rng(seed)
    slices = observation_slices(task)
    obs = rng.uniform(-0.1, 0.1, (steps, max(s.stop for s in slices.values())))
    for name, entries in slices.items():
        if name.endswith("quat"):
            obs[:, entries] = unit(rng, steps)
    hand, thing = slices["robot0_eef_pos"], slices[f"{OBJECTS[task]}_pos"]
    walk = np.cumsum(rng.normal(0, 0.01, (steps, 3)), axis=0)
    obs[:, thing] = (place or STARTS[task]) + walk - walk[0]
    offset = obs[:, hand] - obs[:, thing]
    if task == "lift":
        obs[:, slices["gripper_to_cube_pos"]] = offset
    else:  # turned into another frame: only its length is kept
        turned = offset[:, [1, 2, 0]] * (1, -1, 1)
        obs[:, slices[f"{OBJECTS[task]}_to_robot0_eef_pos"]] = turned
    return obs.astype(np.float32)


def episodes(task="square", count=3, steps=12, place=None):
    rng = np.random.default_rng(1)
    rewards = np.zeros(steps, np.float32)
    rewards[-1] = 1
    return [
        DemoEpisode(
            obs=observations(task, steps, seed, place),
            actions=rng.uniform(-1, 1, (steps, 7)).astype(np.float32),
            rewards=rewards,
            last_obs=observations(task, 1, seed)[0],
        )
        for seed in range(count)
    ]


def write(path, task="square", words=None, made=None, masks=None) -> Path:
    """Writes a file; the words as robomimic does, a string of variable length."""
    made = episodes(task) if made is None else made
    write_robomimic(path, made, {}, masks)
    with h5py.File(path, "a") as file:
        del file["data"].attrs["env_args"]
        words = env_args(task) if words is None else words
        if words:
            text = words if isinstance(words, str) else json.dumps(words)
            file["data"].attrs["env_args"] = text
    return path


def rename(path, names):
    """Gives the episodes of a file other names."""
    with h5py.File(path, "a") as file:
        for old, new in names.items():
            file["data"].move(old, new)
