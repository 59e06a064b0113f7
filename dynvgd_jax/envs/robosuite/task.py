"""What is fixed about a robosuite task, written as data: the engines hold no task.

The compiled engine puts an observation together from readings and finds success from
conditions; what each kind means stands here, what it does in `readout`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from dynvgd_jax.envs.base import EnvSizes

_ARM_KEYS = ("eef_pos", "eef_quat", "gripper_qpos")
ARM_OBS_DIM = 9  # of each arm, first in the observation: hand 3 + 4, fingers 2

# Kinds of readings; each writes so many values to the observation.
BODY_POSITION = 0  # 3: of body `first`, m
BODY_QUAT = 1  # 4: of body `first`, (x, y, z, w)
BODY_ROTATION = 2  # 4: the same, by way of the rotation matrix
GEOM_POSITION = 3  # 3: of geom `first`, m
GEOM_ROTATION = 4  # 4: of geom `first`, by way of the rotation matrix
DIFFERENCE = 5  # 3: what stands at `first` in the observation minus what at `second`
POSE_IN_HAND = 6  # 7: the pose at `second` in the frame of the hand whose is at `first`
CONTACT = 7  # 1: whether a geom of contact group `first` touches one of `second`
READING_SIZES = (3, 4, 4, 3, 4, 3, 7, 1)

# Kinds of conditions; all of a task's hold at success.
INSIDE = 0  # body `first` is inside the box `limits`, x low, x high, y low, ... in m
BESIDE = 1  # body `first` is within limits[0] m of body `second`, along x and along y
HAND_AWAY = 2  # the first hand is not at body `first`, by robosuite's reaching reward
IN_CONTACT = 3  # a geom of contact group `first` touches one of group `second`


class Reading(NamedTuple):
    """A part of the observation."""

    kind: int
    first: int
    second: int = 0


class Condition(NamedTuple):
    """A part of the test for success."""

    kind: int
    first: int
    second: int = 0
    limits: tuple[float, ...] = ()


class Parts(NamedTuple):
    """What the compiled engine reads, with the ids of one simulator."""

    readings: tuple[Reading, ...]  # the observation behind the arms' part, in order
    conditions: tuple[Condition, ...]
    contact_groups: tuple[
        list[int], ...
    ] = ()  # geom ids; a group's number is its place


class View(NamedTuple):
    """Where videos look from: in front of the robot, which stands at x < 0."""

    lookat_m: tuple[float, float, float] = (-0.03, 0.02, 0.93)
    distance_m: float = 1.1
    azimuth_deg: float = 180.0  # 180 looks along -x
    elevation_deg: float = -28.0


class Task(NamedTuple):
    """What is fixed about one task (robosuite 1.4.1, DPPO's choices)."""

    name: str  # name in configurations
    env_name: str  # robosuite's name
    obs_dim: int  # Do
    chunk_len: int  # Ta, control steps per action chunk
    max_episode_env_steps: int  # control steps until the time limit
    # Of a robosuite environment; None leaves the task to `env.engine=robosuite`, whose
    # environment says what is observed and what is success.
    parts: Callable[[Any], Parts] | None = None
    num_arms: int = 1  # Panda arms
    unused_objects: tuple[str, ...] = ()  # robosuite keeps them 14 m away
    view: View = View()

    @property
    def action_dim(self) -> int:
        """Da, 7 per arm: 3 position, 3 rotation, 1 gripper."""
        return 7 * self.num_arms

    @property
    def obs_keys(self) -> tuple[str, ...]:
        """Robosuite's observables, concatenated in this order (DPPO's)."""
        keys = [f"robot{i}_{key}" for i in range(self.num_arms) for key in _ARM_KEYS]
        return (*keys, "object-state")

    @property
    def sizes(self) -> EnvSizes:
        """The task's sizes as the loops know them."""
        return EnvSizes(
            obs_dim=self.obs_dim,
            action_dim=self.action_dim,
            chunk_len=self.chunk_len,
            max_episode_env_steps=self.max_episode_env_steps,
        )


def box(
    x: tuple[float, float] = (-math.inf, math.inf),
    y: tuple[float, float] = (-math.inf, math.inf),
    z: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[float, ...]:
    """Returns the limits of INSIDE, borders excluded; an axis left out has none."""
    return (*x, *y, *z)
