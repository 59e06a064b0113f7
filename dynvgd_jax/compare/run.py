"""One comparison from its configuration to its table: starts runs, looks after them."""

import re
import shlex
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol

from ml_collections import ConfigDict

from dynvgd_jax.compare import records, results
from dynvgd_jax.compare.attempt import log_tail
from dynvgd_jax.compare.cluster import ClusterExecutor
from dynvgd_jax.compare.local import LocalExecutor
from dynvgd_jax.compare.plan import Plan, Run, make_plan, program
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.runs.lock import FolderLock
from dynvgd_jax.runs.terminal import (
    Progress,
    curves,
    module,
    print_next,
    print_table,
)

_POLL_S = 0.2
_SHOW_EVERY_S = 2.0
_SHOWN_RUNS = 3
# How far a run is, in the lines of runs/report.py.
_STEPS = re.compile(r"^\d[\d.]*% \|.*\| ([\d,]+)/[\d,]+")


class Attempt(Protocol):
    """A run that has been started."""

    def poll(self) -> str | None:
        """How it ended; None while it goes on."""

    def stop(self) -> None:
        """Lets it save and end."""


class Executor(Protocol):
    """Where runs are started."""

    cores: int  # of each run

    def has_room(self) -> bool:
        """Whether another run may start."""

    def start(self, run: Run, say: Callable[[str], None]) -> Attempt:
        """Starts a run; OSError where that is impossible."""

    def command(self, run: Run, place: int) -> list[str]:
        """Returns what does the same by hand, as one of a list, by its place there."""


def compare(
    config: ConfigDict,
    workdir: Path,
    *,
    stop: Callable[[], bool] = lambda: False,
    print_commands: bool = False,
    typed: Collection[str] = (),
) -> None:
    """Runs what is left of a comparison and prints its table.

    Args:
      config: of configs/compare_*.py.
      workdir: of the comparison; may hold it already, which then goes on.
      stop: asked often; once it says yes all runs save and end.
      print_commands: print what would be run, and run nothing.
      typed: fields that the command line names, see `make_plan`.

    Raises:
      UserError: a field makes no sense, `workdir` is another comparison's or in use, or
        runs have failed.
    """
    plan = make_plan(config, workdir, typed)
    executor = make_executor(config, workdir)
    notes = records.check_folder(plan, executor.cores)
    if print_commands:
        left = [run for run in plan.runs if not records.finished(run)]
        for place, run in enumerate(left):
            print(shlex.join(executor.command(run, place)))
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with FolderLock(workdir):
        records.write(plan, executor.cores)
        with Overview(plan) as overview:
            for note in notes:
                overview.say(note)
            failed, stopped = run_all(plan, executor, stop, overview)
        records.write(plan, executor.cores)
        finished = [run for run in plan.runs if records.finished(run)]
        rows = results.read_rows(plan, finished)
        results.write_table(workdir, rows)
    print_table(results.results_table(rows))
    if failed:
        raise UserError(
            f"{len(failed)} of {len(plan.runs)} runs failed: "
            f"{', '.join(run.label for run in failed)}; each run's log is "
            f"{workdir}/METHOD/seed_N.log; the same command tries them again"
        )
    if stopped:
        print("stopped, everything is saved; the same command goes on")
        return
    one_page = module("report", workdir, "--output=report")
    print_next({"curves": curves(workdir), "one page": one_page})


def make_executor(config: ConfigDict, workdir: Path) -> Executor:
    """Returns what `config.compare.executor` says; UserError where it is not there."""
    if config.compare.executor == "local":
        return LocalExecutor(config.compare.jobs, program())
    return ClusterExecutor(workdir, program(), config.compare.slurm)


def run_all(
    plan: Plan, executor: Executor, stop: Callable[[], bool], overview: "Overview"
) -> tuple[list[Run], bool]:
    """Runs what is not finished.

    Returns: the runs that failed, and whether it was stopped before the end.
    """
    waiting = deque(run for run in plan.runs if not records.finished(run))
    skipped = len(plan.runs) - len(waiting)
    if skipped:
        overview.say(f"{skipped} of {len(plan.runs)} runs are finished already")
    active: dict[str, tuple[Run, Attempt]] = {}
    failed: list[Run] = []
    stopped = False
    try:
        while waiting or active:
            if stop() and not stopped:
                stopped = True
                waiting.clear()
                _stop(active, overview)
            while waiting and executor.has_room():
                run = waiting.popleft()
                verb = "goes on" if records.begun(run) else "starts"
                overview.say(f"{run.label}: {verb}")
                active[run.label] = run, executor.start(run, overview.say)
            for run, ended in _take_ended(active):
                if records.finished(run):
                    overview.finish(run)
                elif not stopped:
                    failed.append(run)
                    overview.say(_failure(run, ended))
            overview.show([run for run, _ in active.values()])
            time.sleep(_POLL_S if active else 0)
    except BaseException:
        _stop(active, overview)  # nobody would look after them
        raise
    return failed, stopped


def _take_ended(active: dict[str, tuple[Run, Attempt]]) -> list[tuple[Run, str]]:
    """Takes out what has ended, and says how."""
    found = []
    for run, attempt in list(active.values()):
        try:
            ended = attempt.poll()
        except OSError as error:
            ended = f"not started: {error}"
        if ended is not None:
            found.append((run, ended))
            del active[run.label]
    return found


def _stop(active: dict[str, tuple[Run, Attempt]], overview: "Overview") -> None:
    for run, attempt in active.values():
        overview.say(f"{run.label}: saves and ends")
        attempt.stop()


def _failure(run: Run, ended: str) -> str:
    last = (log_tail(run) or ["it printed nothing"])[-1]
    return f"{run.label}: failed ({ended}): {last}; log: {run.log}"


class Overview:
    """One progress display of all runs on stderr; plain lines where it is a file."""

    def __init__(self, plan: Plan):
        self._runs = plan.runs
        finished = {run.label for run in plan.runs if records.finished(run)}
        self._finished = len(finished)
        self._done = {  # control steps
            run.label: _budget(run) if run.label in finished else _env_steps(run)
            for run in plan.runs
        }
        self._next = 0.0
        self._progress = Progress(sum(map(_budget, plan.runs)))

    def __enter__(self) -> "Overview":
        self._progress.__enter__()
        self._progress.restart_rate(sum(self._done.values()))
        return self

    def __exit__(self, *exception) -> None:
        self._progress.__exit__(*exception)

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        self._progress.message(text)

    def finish(self, run: Run) -> None:
        """Counts a run as finished."""
        self._finished += 1
        self._done[run.label] = _budget(run)
        try:
            last = results.read_last(run)
            text = f"finished, success {last.success_chunk / last.episodes:.3f}"
            if last.returns:
                text = f"finished, return {sum(last.returns) / last.episodes:.1f}"
        except UserError as error:
            text = f"finished, but {error}"
        count = f"{self._finished} of {len(self._runs)} runs"
        self.say(f"{run.label}: {text} ({count})")

    def show(self, active: Sequence[Run]) -> None:
        """Shows how far all are, every few seconds."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _SHOW_EVERY_S
        for run in active:
            self._done[run.label] = max(self._done[run.label], _env_steps(run))
        names = [run.label for run in active[:_SHOWN_RUNS]]
        more = [f"{len(active) - len(names)} more"] if len(active) > len(names) else []
        stage = f"{self._finished} of {len(self._runs)} runs finished"
        if names:
            stage += f", running {', '.join([*names, *more])}"
        self._progress.update(sum(self._done.values()), stage=stage)


def _budget(run: Run) -> int:
    return run.config.total_env_steps


def _env_steps(run: Run) -> int:
    """Control steps of a run, as the last line says that tells them."""
    for line in reversed(log_tail(run)):
        found = _STEPS.match(line)
        if found:
            return int(found[1].replace(",", ""))
    return 0
