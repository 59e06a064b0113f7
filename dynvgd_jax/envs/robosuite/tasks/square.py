"""Square: put the square nut over the square peg."""

import math
from typing import Any

from dynvgd_jax.envs.robosuite.task import (
    ARM_OBS_DIM,
    BESIDE,
    BODY_POSITION,
    BODY_QUAT,
    HAND_AWAY,
    INSIDE,
    POSE_IN_HAND,
    Condition,
    Parts,
    Reading,
    Task,
    box,
)


def _parts(env: Any) -> Parts:
    nut, table_z = env.obj_body_id["SquareNut"], env.table_offset[2]
    return Parts(
        readings=(
            Reading(BODY_POSITION, nut),
            Reading(BODY_QUAT, nut),
            Reading(POSE_IN_HAND, 0, ARM_OBS_DIM),
        ),
        conditions=(
            Condition(HAND_AWAY, nut),
            Condition(BESIDE, nut, env.peg1_body_id, limits=(0.03,)),
            Condition(INSIDE, nut, limits=box(z=(-math.inf, table_z + 0.05))),
        ),
    )


TASK = Task(
    name="square",
    env_name="NutAssemblySquare",
    obs_dim=23,
    chunk_len=4,
    max_episode_env_steps=400,
    parts=_parts,
    unused_objects=("RoundNut",),
)
