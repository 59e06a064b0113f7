"""The Gymnasium tasks by name, as plain values."""

from dynvgd_jax.core.scores import GYM
from dynvgd_jax.envs.base import EnvSizes

CHUNK_LEN = 4  # Ta of all of them, as of DPPO's gym policies
# Task -> gymnasium's id. DPPO has the same tasks on version 2 of the models.
IDS = {
    "hopper": "Hopper-v5",
    "walker2d": "Walker2d-v5",
    "halfcheetah": "HalfCheetah-v5",
}
# For whoever has no gymnasium, as a conversion of checkpoints.
SIZES = {
    "hopper": EnvSizes(11, 3, CHUNK_LEN, 1000),
    "walker2d": EnvSizes(17, 6, CHUNK_LEN, 1000),
    "halfcheetah": EnvSizes(17, 6, CHUNK_LEN, 1000),
}


def env_id(task: str) -> str:
    """Returns gymnasium's id of a task: `hopper` or `gym:Hopper-v5`."""
    return IDS.get(task, task.removeprefix(GYM))
