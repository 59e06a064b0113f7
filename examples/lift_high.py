"""A robosuite task of one's own: a subclass of robosuite's Lift; docs/own.md.

--config.task=examples.lift_high:high
"""

import math

import dynvgd_jax.envs.robosuite.task as parts
from dynvgd_jax.demos import lift as lift_script

# What steps and draws robosuite's tasks does so with this one.
from dynvgd_jax.envs.robosuite import FIELDS, make_camera, make_env  # noqa: F401
from dynvgd_jax.envs.robosuite.headless import robosuite  # robosuite, without OpenGL

HIGH_M = 0.08  # above the table; robosuite's own Lift asks for 0.04


class LiftHigh(robosuite.environments.manipulation.lift.Lift):
    """Lift with a higher goal; robosuite knows it by its name from here on."""

    def _check_success(self):
        table_z = self.model.mujoco_arena.table_offset[2]
        return self.sim.data.body_xpos[self.cube_body_id][2] > table_z + HIGH_M


def _parts(env):
    """The same observation and success in words of the compiled engine."""
    cube, table_z = env.cube_body_id, env.model.mujoco_arena.table_offset[2]
    high = parts.box(z=(table_z + HIGH_M, math.inf))
    return parts.Parts(
        readings=(
            parts.Reading(parts.BODY_POSITION, cube),
            parts.Reading(parts.BODY_QUAT, cube),
            parts.Reading(parts.DIFFERENCE, 0, parts.ARM_OBS_DIM),  # hand minus cube
        ),
        conditions=(parts.Condition(parts.INSIDE, cube, limits=high),),
    )


TASKS = {
    "high": parts.Task(
        name="high",
        env_name="LiftHigh",  # the class
        obs_dim=19,
        chunk_len=4,
        max_episode_env_steps=300,
        parts=_parts,  # leave it out for env.engine=robosuite, ten times slower
    )
}
SCRIPTS = {"high": lift_script.SCRIPT}  # who demonstrates; not needed with own data


def task_names():
    """Returns what may stand behind the colon."""
    return tuple(TASKS)
