"""Transport: two arms bring the payload and the trash into their bins."""

from typing import Any

from dynvgd_jax.envs.robosuite.task import (
    ARM_OBS_DIM,
    BODY_POSITION,
    BODY_ROTATION,
    CONTACT,
    DIFFERENCE,
    GEOM_POSITION,
    GEOM_ROTATION,
    IN_CONTACT,
    Condition,
    Parts,
    Reading,
    Task,
    View,
)

# Contact groups.
_TARGET_BIN, _PAYLOAD, _TRASH_BIN, _TRASH = range(4)
# Where poses stand in the observation.
_HAND0, _HAND1 = 0, ARM_OBS_DIM
_PAYLOAD_AT = 2 * ARM_OBS_DIM
_TRASH_AT, _LID_AT = _PAYLOAD_AT + 7, _PAYLOAD_AT + 14


def _parts(env: Any) -> Parts:
    parts = env.transport
    lid = parts.lid_handle_geom_ids[0]
    return Parts(
        readings=(
            Reading(BODY_POSITION, parts.payload_body_id),
            Reading(BODY_ROTATION, parts.payload_body_id),
            Reading(BODY_POSITION, parts.trash_body_id),
            Reading(BODY_ROTATION, parts.trash_body_id),
            Reading(GEOM_POSITION, lid),
            Reading(GEOM_ROTATION, lid),
            Reading(GEOM_POSITION, parts.target_bin_base_geom_ids[0]),
            Reading(GEOM_POSITION, parts.trash_bin_base_geom_ids[0]),
            Reading(DIFFERENCE, _PAYLOAD_AT, _HAND0),
            Reading(DIFFERENCE, _LID_AT, _HAND0),
            Reading(DIFFERENCE, _PAYLOAD_AT, _HAND1),
            Reading(DIFFERENCE, _TRASH_AT, _HAND1),
            Reading(CONTACT, _TARGET_BIN, _PAYLOAD),
            Reading(CONTACT, _TRASH_BIN, _TRASH),
        ),
        conditions=(
            Condition(IN_CONTACT, _TARGET_BIN, _PAYLOAD),
            Condition(IN_CONTACT, _TRASH_BIN, _TRASH),
        ),
        contact_groups=(
            parts.target_bin_base_geom_ids,
            parts.payload_geom_ids,
            parts.trash_bin_base_geom_ids,
            parts.trash_geom_ids,
        ),
    )


TASK = Task(
    name="transport",
    env_name="TwoArmTransport",
    num_arms=2,
    obs_dim=59,
    chunk_len=8,
    max_episode_env_steps=800,
    parts=_parts,
    view=View(distance_m=2.2),
)
