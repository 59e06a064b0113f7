"""Runs as jobs of a cluster, through submitit."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ml_collections import ConfigDict

import dynvgd_jax
from dynvgd_jax.compare import attempt
from dynvgd_jax.compare.attempt import RunLock
from dynvgd_jax.compare.plan import Run
from dynvgd_jax.compare.records import finished
from dynvgd_jax.core.errors import UserError

FOLDER = ".submitit"  # in the comparison's folder: submitit's own files
_NEEDED = ("sbatch", "srun", "scancel", "sacct")
# Jobs that ran out of time are queued again, with their checkpoint, so many times.
_MOST_TIMEOUTS = 1_000
_POLL_S = 0.2


class ClusterExecutor:
    """Submits all runs at once; the cluster decides when each starts."""

    def __init__(
        self,
        workdir: Path,
        program: Sequence[str],
        options: ConfigDict,
        cluster: str = "slurm",
    ):
        """Prepares submission.

        Args:
          workdir: of the comparison, which all nodes see.
          program: launch.py as it is started here.
          options: `config.compare.slurm`.
          cluster: of submitit's: "slurm", or "local" for processes of this machine.

        Raises:
          UserError: submitit is not installed, or the cluster's commands are missing.
        """
        try:
            import submitit
            from submitit.core.utils import FailedSubmissionError, UncompletedJobError
        except ImportError as error:
            raise UserError(
                f"config.compare.executor: needs submitit ({error}); install it with "
                "pip install submitit, or take local"
            ) from error
        missing = [name for name in _NEEDED if shutil.which(name) is None]
        if cluster == "slurm" and missing:
            raise UserError(
                "config.compare.executor: found slurm, but its commands "
                f"{', '.join(missing)} are not here; start this where jobs are "
                "submitted, or take local"
            )
        self._program, self.cores = tuple(program), options.cpus
        self._refusals = (FailedSubmissionError, UncompletedJobError)
        self._make = lambda: submitit.AutoExecutor(
            workdir / FOLDER,
            cluster=cluster,
            **{f"{cluster}_max_num_timeout": _MOST_TIMEOUTS},
        )
        self._parameters = {
            "timeout_min": options.timeout_min,
            "cpus_per_task": options.cpus,
            "gpus_per_node": options.gpus,
            "mem_gb": options.mem_gb,
            "slurm_partition": options.partition or None,
        }

    def has_room(self) -> bool:
        """Whether another run may be submitted: always."""
        return True

    def start(self, run: Run, say: Callable[[str], None]) -> "ClusterAttempt":
        """Submits a run.

        Args:
          run: what to run.
          say: prints a line; not used.

        Raises:
          UserError: the cluster does not take it.
        """
        executor = self._make()
        parameters = {k: v for k, v in self._parameters.items() if v is not None}
        executor.update_parameters(name=run.label.replace(" ", "_"), **parameters)
        try:
            with _importable():
                return ClusterAttempt(executor.submit(RunJob(run, self._program)))
        except self._refusals as error:
            raise UserError(f"{run.label}: not submitted: {error}") from error

    def command(self, run: Run, place: int) -> list[str]:
        """Returns what does the same by hand, wherever in a list it stands."""
        return attempt.command(run, self._program)


class ClusterAttempt:
    """A job that was submitted."""

    def __init__(self, job):
        self._job = job

    def poll(self) -> str | None:
        """How it ended; None while it waits or goes on."""
        if not self._job.done():
            return None
        return f"job {self._job.job_id}, {self._job.state}"

    def stop(self) -> None:
        """Takes it from the queue, or lets it save and end."""
        self._job.cancel(check=False)


class RunJob:
    """What a node does: one attempt, which saves before the job's time is over."""

    def __init__(self, run: Run, program: Sequence[str]):
        # the job's folder, flags and log are enough; a ConfigDict cannot be unpickled
        self._run = run._replace(config=None)
        self._program = tuple(program)

    def __call__(self) -> None:
        """Runs it to its end, unless it is finished, as of a job submitted twice.

        Raises:
          UserError: it failed, so that the cluster counts the job as failed.
        """
        lock = RunLock(self._run)
        lock.take(wait=True)
        if finished(self._run):
            lock.release()
            return
        process = attempt.start(self._run, self._program, lock)
        stopping = False

        def tell(number, frame) -> None:
            nonlocal stopping
            stopping = True
            attempt.ask_to_stop(process.pid)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, tell)
        # not wait(): `checkpoint` comes while it waits, and must not find its lock
        while process.poll() is None:
            time.sleep(_POLL_S)
        if process.returncode != 0 and not stopping:
            last = (attempt.log_tail(self._run) or ["it printed nothing"])[-1]
            raise UserError(
                f"{self._run.label}: failed (exit code {process.returncode}): {last}; "
                f"log: {self._run.log}"
            )

    def checkpoint(self):
        """Saves, and returns what submitit queues again; see its documentation."""
        from submitit.helpers import DelayedSubmission

        lock = RunLock(self._run)
        holder = lock.holder()
        if holder is not None:
            attempt.ask_to_stop(holder)
        lock.take(wait=True)
        lock.release()
        return DelayedSubmission(RunJob(self._run, self._program))


@contextmanager
def _importable() -> Iterator[None]:
    """Processes that are started inside find this package, also from a clone."""
    name, root = "PYTHONPATH", str(Path(dynvgd_jax.__file__).resolve().parents[1])
    before = os.environ.get(name)
    os.environ[name] = os.pathsep.join([root, *([before] if before else [])])
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
