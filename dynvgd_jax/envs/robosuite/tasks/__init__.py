"""The robosuite tasks by name; a file each. Importing them imports no simulator."""

from collections.abc import Mapping

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.envs.base import check_task, own_simulator
from dynvgd_jax.envs.robosuite.task import Task
from dynvgd_jax.envs.robosuite.tasks import can, lift, square, transport

TASKS: dict[str, Task] = {
    "lift": lift.TASK,
    "can": can.TASK,
    "square": square.TASK,
    "transport": transport.TASK,
}


def find_task(name: str) -> Task | None:
    """Returns the named task; None where robosuite has none of that name.

    A task of a user's, MODULE:NAME, stands in the dictionary `TASKS` of its module.

    Raises:
      UserError: there is no such module.
    """
    own = own_simulator(name)
    if own is None:
        return TASKS.get(name)
    tasks = getattr(own, "TASKS", None)
    found = tasks.get(name.rpartition(":")[2]) if isinstance(tasks, Mapping) else None
    return found if isinstance(found, Task) else None


def get_task(name: str) -> Task:
    """Returns the named task; UserError names the nearest one otherwise."""
    task = find_task(name)
    if task is None:
        check_task("task", name)  # does any simulator have it?
        raise UserError(
            f"found task {name!r}, which is none of robosuite's, expected one of "
            f"{', '.join(TASKS)} or of a module with TASKS (docs/own.md)"
        )
    return task
