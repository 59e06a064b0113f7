"""What a long step shows in the terminal: progress, tables, what to type next."""

import contextlib
import math
import shlex
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from dynvgd_jax.core.config_file import config_of
from dynvgd_jax.core.output import is_quiet

# The rate is measured over this much of the recent past, evaluations included.
_RATE_WINDOW_S = 300.0
# Without a terminal a line is printed this often.
_LINE_EVERY_S = 60.0
# Steps that mostly take less than this say nothing before.
PATIENCE_S = 5.0
_PURPOSES = {"demos": "demonstrate", "pretrain": "pre-train"}
# Kind of policy -> how the names of configurations go on that steer it.
_STEERED = {"diffusion_mlp": "ddim", "flow_mlp": "flow"}


def duration_text(seconds: float | None) -> str:
    """Returns e.g. `45 s`, `12 min`, `3 h 05 min`, `143 d 2 h`, or `?` for None."""
    if seconds is None or not math.isfinite(seconds):
        return "?"
    seconds = max(0, round(seconds))
    if seconds < 100:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"


def print_table(table: Table, console: Console | None = None) -> None:
    """Prints `table`, 140 characters wide where stdout has no width of its own."""
    console = console or Console()
    if not console.is_terminal:  # a file has no width to fit into
        console.width = 140
    console.print(table)


def print_next(commands: Mapping[str, Sequence[str | Path]]) -> None:
    """Prints what one may type next, unless --quiet was given.

    Args:
      commands: what it is for -> the command's words.
    """
    if is_quiet() or not commands:
        return
    width = max(map(len, commands)) + 1
    for purpose, words in commands.items():
        print(f"{purpose + ':':{width}} {shlex.join(map(str, words))}")


def curves(folder: Path) -> tuple[str, ...]:
    """Returns the command that shows a run's curves."""
    return "tensorboard", f"--logdir={folder}"


def module(name: str, *arguments: str | Path) -> tuple[str | Path, ...]:
    """Returns the command `python -m dynvgd_jax.NAME`."""
    return "python", "-m", f"dynvgd_jax.{name}", *arguments


def held_out(run: Path, eval_seed: int) -> tuple[str | Path, ...]:
    """Returns the evaluation of a run on episodes that it has not seen."""
    return module("evaluate", run, f"--seed={eval_seed + 1}")


def job(task: str, kind: str, *arguments: str) -> dict[str, tuple[str | Path, ...]]:
    """Returns a command of the launcher by purpose; none where a task has no such file.

    Args:
      task: of the configuration file.
      kind: how its name goes on behind the task: "demos", "pretrain", "ddim" or "flow".
      arguments: of the command.
    """
    file = config_of(task, kind)
    if file is None:
        return {}
    preset = ":quick" if kind in _STEERED.values() else ""
    command = module("launch", f"--config={file}{preset}", *arguments)
    return {_PURPOSES.get(kind, "steer it"): command}


def with_policy(
    task: str, policy_kind: str, policy: str | Path, seed: int = 0
) -> dict[str, tuple[str | Path, ...]]:
    """Returns what one may do with a new policy; nothing for a kind of one's own.

    That is known only where the file that adds it has run.

    Args:
      task: of the policy.
      policy_kind: as configurations name it.
      policy: its folder.
      seed: of the episodes.
    """
    if policy_kind not in _STEERED:
        return {}
    episodes = module("evaluate", policy, *([f"--seed={seed}"] if seed else []))
    steer = job(task, _STEERED[policy_kind], f"--config.base_policy={policy}")
    return {"episodes": episodes} | steer


class Progress:
    """A progress bar on stderr, or plain lines where stderr is no terminal.

    Use it in a `with` block; `update` may be called as often as one likes. With --quiet
    it shows nothing.
    """

    def __init__(
        self,
        total: int,
        *,
        unit: str = "control steps",
        quiet: bool = False,
        patience_s: float = 0.0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Prepares a display.

        Args:
          total: units of the whole job.
          unit: what is counted.
          quiet: show nothing, as another process does.
          patience_s: without a terminal, the time before the first line.
          console: where to; stderr by default.
          clock: seconds, never going backwards.
        """
        self.total = total
        self.unit = unit
        self._console = console or Console(stderr=True, quiet=quiet or is_quiet())
        # for what is said with --quiet too
        self._aloud = console or Console(stderr=True, quiet=quiet)
        self._clock = clock
        self._history = deque([(clock(), 0)])
        self._done = 0
        self._measure, self._stage = "", ""
        self._next_line = self._first_line = clock() + patience_s
        self._bar = None
        self._part: Part | None = None

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._bar = RichProgress(
                BarColumn(bar_width=16),
                TextColumn("{task.fields[text]}", markup=False),
                console=self._console,
                refresh_per_second=2,
            )
            self._task = self._bar.add_task("", total=self.total, text="starting")
            self._bar.start()
        return self

    def __exit__(self, kind, *exception) -> None:
        failed_at_once = kind is not None and not self._done  # its error says it all
        if self._bar is not None:
            self._bar.stop()
        elif not failed_at_once and self._clock() >= self._first_line:
            self.message(self.line())

    def update(
        self,
        done: int,
        *,
        success: float | None = None,
        mean_return: float | None = None,
        stage: str = "",
    ) -> None:
        """Shows the state after `done` units.

        Args:
          done: units so far, never less than before.
          success: recent success rate in [0, 1]; None where there is none yet.
          mean_return: recent mean return, of tasks that are judged by it.
          stage: what is going on, such as `first rollouts`.
        """
        self._done, self._stage = done, stage
        self._measure = _measure_text(success, mean_return)
        self._show()

    @contextlib.contextmanager
    def part(self, name: str, total: int) -> Iterator["Part"]:
        """Shows a step inside the job, such as an evaluation, with its own time left.

        In a terminal it has a bar of its own below the job's.

        Args:
          name: what is going on.
          total: units of the step.
        """
        self._part = Part(name, total, self._clock, self._show)
        if self._bar is not None:
            self._part.task = self._bar.add_task("", total=total, text=name)
        try:
            self._show()
            yield self._part
        finally:
            if self._bar is not None:
                self._bar.remove_task(self._part.task)
            self._part = None

    def _show(self) -> None:
        now, done = self._clock(), self._done
        self._history.append((now, done))
        # Keeps the last progress in sight while a long evaluation makes none.
        while now - self._history[1][0] > _RATE_WINDOW_S and self._history[1][1] < done:
            self._history.popleft()
        if self._bar is not None:
            self._bar.update(self._task, completed=done, text=self.line())
            if self._part is not None:
                text, part = self._part.line(), self._part
                self._bar.update(part.task, completed=part.done, text=text)
        elif now >= self._next_line:
            self._next_line = now + _LINE_EVERY_S
            self.message(self.line())

    def restart_rate(self, done: int | None = None) -> None:
        """Forgets the past speed: call it where the work per unit changes.

        Args:
          done: units that an earlier job did already; None leaves the count.
        """
        self._done = self._done if done is None else done
        self._history = deque([(self._clock(), self._done)])

    def message(self, text: str, *, always: bool = False) -> None:
        """Prints a line that stays above the bar; `always` also with --quiet."""
        console = self._aloud if always else self._console
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    def rate(self) -> float | None:
        """Units per second over the last minutes; None before the first progress."""
        (start, first), (end, last) = self._history[0], self._history[-1]
        return (last - first) / (end - start) if end > start and last > first else None

    def line(self) -> str:
        """The state as text: how far, success, how fast, how long still."""
        rate = self.rate()
        left = None if rate is None else (self.total - self._done) / rate
        speed = "-" if rate is None else f"{rate:.1f}"
        measure = f"{self._measure} | " if self._measure else ""
        stage = f" | {self._stage}" if self._stage else ""
        if self._part is not None and self._bar is None:
            stage = f" | {self._part.line()}"
        return (
            f"{self._done / max(self.total, 1):.1%} | {measure}"
            f"{speed} {self.unit}/s | {duration_text(left)} left | "
            f"{self._done:,}/{self.total:,}{stage}"
        )


class Part:
    """A step inside a job; `Progress.part` makes it."""

    task = None  # its bar

    def __init__(self, name: str, total: int, clock, show: Callable[[], None]):
        self.name, self.total, self.done = name, total, 0
        self._clock, self._show = clock, show
        self._start, self._measure = clock(), ""

    def update(
        self,
        done: int,
        *,
        success: float | None = None,
        mean_return: float | None = None,
    ) -> None:
        """Shows the step after `done` units; the others as `Progress.update`'s."""
        self.done, self._measure = done, _measure_text(success, mean_return)
        self._show()

    def line(self) -> str:
        """The step as text: what, how far, success, how long still."""
        left = None
        if self.done:
            passed = self._clock() - self._start
            left = passed * (self.total - self.done) / self.done
        measure = f"{self._measure}, " if self._measure else ""
        return (
            f"{self.name} {self.done:,}/{self.total:,}, {measure}"
            f"{duration_text(left)} left"
        )


def _measure_text(success: float | None, mean_return: float | None) -> str:
    if mean_return is not None:
        return f"return {mean_return:.0f}"
    return "" if success is None else f"success {success:.2f}"
