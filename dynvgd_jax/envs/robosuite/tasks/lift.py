"""Lift: raise the cube 4 cm above the table."""

import math
from typing import Any

from dynvgd_jax.envs.robosuite.task import (
    ARM_OBS_DIM,
    BODY_POSITION,
    BODY_QUAT,
    DIFFERENCE,
    INSIDE,
    Condition,
    Parts,
    Reading,
    Task,
    box,
)


def _parts(env: Any) -> Parts:
    cube, table_z = env.cube_body_id, env.model.mujoco_arena.table_offset[2]
    return Parts(
        readings=(
            Reading(BODY_POSITION, cube),
            Reading(BODY_QUAT, cube),
            Reading(DIFFERENCE, 0, ARM_OBS_DIM),  # hand minus cube
        ),
        conditions=(Condition(INSIDE, cube, limits=box(z=(table_z + 0.04, math.inf))),),
    )


TASK = Task(
    name="lift",
    env_name="Lift",
    obs_dim=19,
    chunk_len=4,
    max_episode_env_steps=300,
    parts=_parts,
)
