"""The robosuite tasks by name; a file each. Importing them imports no simulator."""

from dynvgd_jax.envs.base import unknown_task
from dynvgd_jax.envs.robosuite.task import Task
from dynvgd_jax.envs.robosuite.tasks import can, lift, square, transport

TASKS: dict[str, Task] = {
    "lift": lift.TASK,
    "can": can.TASK,
    "square": square.TASK,
    "transport": transport.TASK,
}


def get_task(name: str) -> Task:
    """Returns the named task; UserError names the nearest one otherwise."""
    if name not in TASKS:
        raise unknown_task(name, tuple(TASKS))
    return TASKS[name]
