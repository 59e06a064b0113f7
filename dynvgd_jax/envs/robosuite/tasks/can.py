"""Can: carry the can from the left bin to its quarter of the right one."""

from typing import Any

from dynvgd_jax.envs.robosuite.task import (
    ARM_OBS_DIM,
    BODY_POSITION,
    BODY_QUAT,
    HAND_AWAY,
    INSIDE,
    POSE_IN_HAND,
    Condition,
    Parts,
    Reading,
    Task,
    View,
    box,
)


def _parts(env: Any) -> Parts:
    can = env.obj_body_id["Can"]
    # the can's quarter of the bin lies above the bin's centre in x and y
    low, size = env.bin2_pos, env.bin_size
    quarter = box(
        x=(low[0], low[0] + size[0] / 2),
        y=(low[1], low[1] + size[1] / 2),
        z=(low[2], low[2] + 0.1),
    )
    return Parts(
        readings=(
            Reading(BODY_POSITION, can),
            Reading(BODY_QUAT, can),
            Reading(POSE_IN_HAND, 0, ARM_OBS_DIM),
        ),
        conditions=(
            Condition(HAND_AWAY, can),
            Condition(INSIDE, can, limits=quarter),
        ),
    )


TASK = Task(
    name="can",
    env_name="PickPlaceCan",
    obs_dim=23,
    chunk_len=4,
    max_episode_env_steps=300,
    parts=_parts,
    unused_objects=("Milk", "Bread", "Cereal"),
    view=View(lookat_m=(0.0, 0.02, 0.95), distance_m=1.45),
)
