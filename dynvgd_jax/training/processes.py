"""Several processes of one run, one a machine or one a GPU: start and exchange.

Every process calls the same functions of this file in the same order; with one process
they do nothing. Devices exchange gradients by themselves (parallel.py); this is for
what lives on the hosts: results of episodes, states of environments, wishes to stop.
"""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.types import PyTree

T = TypeVar("T")

# A process that died is noticed by the others after this long, and ends them.
HEARTBEAT_TIMEOUT_S = 60
_START_TIMEOUT_S = 300


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the other processes; call it before anything else uses JAX.

    Without arguments the cluster tells (SLURM, Open MPI, Kubernetes, Cloud TPU).

    Args:
      coordinator: `host:port` of process 0, reachable by all.
      num_processes: of the run.
      process_id: this process's number, from 0.

    Raises:
      UserError: the processes did not find each other.
    """
    # It would take SIGTERM for itself, which saves a checkpoint here (runs/signals.py).
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=_START_TIMEOUT_S,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"cannot join the other processes: {_first_line(error)}; outside a known "
            "cluster give --coordinator, --num_processes and --process_id "
            "(docs/scaling.md)"
        ) from error


def count() -> int:
    """Processes of this run."""
    return jax.process_count()


def index() -> int:
    """This process's number; 0 writes the run's files."""
    return jax.process_index()


def is_first() -> bool:
    """Whether this process writes the run's files."""
    return index() == 0


def own_share(total: int) -> slice:
    """Returns this process's part of `total` things that all have an equal part of."""
    each = total // count()
    return slice(index() * each, (index() + 1) * each)


def gather_objects(value: Any) -> list[Any]:
    """Returns every process's `value`, in their order; values that JSON keeps."""
    if count() == 1:
        return [value]
    content = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = _all_gather(np.int32([len(content)]))[:, 0]
    # Rounded up, so that few programs are compiled for the exchange.
    room = 1 << int(max(sizes)).bit_length()
    padded = np.zeros(room, np.uint8)
    padded[: len(content)] = content
    return [
        json.loads(row[:size].tobytes())
        for row, size in zip(_all_gather(padded), sizes, strict=True)
    ]


def concatenate(tree: PyTree, axis: int = 0) -> PyTree:
    """Returns NumPy trees of all processes, equal shapes, concatenated along `axis`.

    Every dtype keeps its bits: bytes are exchanged, as JAX would shorten 64-bit ones.
    """
    if count() == 1:
        return tree

    def one(leaf):
        leaf = np.ascontiguousarray(leaf)
        parts = _all_gather(np.frombuffer(leaf.tobytes(), np.uint8))
        arrays = [np.frombuffer(p.tobytes(), leaf.dtype) for p in parts]
        return np.concatenate([a.reshape(leaf.shape) for a in arrays], axis)

    return jax.tree.map(one, tree)


def any_of(flag: bool) -> bool:
    """Whether any process says yes."""
    if count() == 1:
        return flag
    return bool(_all_gather(np.int32([flag])).any())


def by_first(action: Callable[[], T]) -> T | None:
    """Lets process 0 alone do something; the others get None.

    Raises:
      UserError: in all processes, where it or an OSError was raised in process 0.
    """
    found, failed = None, None
    if is_first():
        try:
            found = action()
        except (UserError, OSError) as error:
            failed = error
    text = gather_objects(None if failed is None else str(failed))[0]
    if text is not None:
        raise UserError(text) from failed
    return found


def by_all(action: Callable[[], T]) -> T:
    """Lets every process do something and returns its own result.

    Raises:
      UserError: in all processes, where it or an OSError was raised in any.
    """
    found, failed = None, None
    try:
        found = action()
    except (UserError, OSError) as error:
        failed = error
    texts = gather_objects(None if failed is None else str(failed))
    said = [text for text in texts if text is not None]
    if said:
        raise UserError(said[0]) from failed
    return found


def require_equal(what: str, value: Any) -> None:
    """Raises UserError in all processes where their values, kept by JSON, differ."""
    values = gather_objects(value)
    for number, other in enumerate(values):
        if other != values[0]:
            raise UserError(
                f"process {number} found {what} {other}, process 0 {values[0]}; all "
                "need the same command and one shared file system"
            )


def _all_gather(array: np.ndarray) -> np.ndarray:
    return np.asarray(multihost_utils.process_allgather(array)).reshape(
        count(), *array.shape
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
