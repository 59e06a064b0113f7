r"""Runs one job: training, a comparison, pre-training, demonstrations or an agent.

  python launch.py --config=configs/square_ddim8.py
  python launch.py --config=configs/square_ddim8.py:quick --config.seed=1
  python launch.py --config=configs/can_ddim8.py --workdir=runs/wide \
      --config.critic.width=4096

The same as `python -m dynvgd_jax.launch`, which works in any folder.

--config   a file, optionally with a preset behind a colon; where the working directory
           has no configs/NAME.py, the one that came with the program
--config.* any field of that file (configs/base.py explains them)
--resume   go on with the training run in its folder from its newest checkpoint
--workdir  where results go; must be new or empty. Default: runs/<config>-seed<seed>,
           for demonstrations data/<task>, for agents that demonstrate
           data/<task>_agent, for comparisons runs/<config>, which the
           same command goes on with
--print_commands
           of a comparison: the plain commands of what it would run
--distributed
           one of several processes of a training run, as SLURM, Open MPI or
           Kubernetes started them; elsewhere give all of --coordinator=HOST:PORT (of
           process 0), --num_processes=N and --process_id=0..N-1 (docs/scaling.md)
--quiet    errors and final results only: no progress, no notes, no advice
--version  prints the program's version

SIGTERM or SIGINT (Ctrl-C), a closed terminal or pipe, SIGUSR1, SIGUSR2 and SIGXCPU let
a training run, or all runs of a comparison, save a checkpoint and end with exit code
0; a second SIGTERM or SIGINT ends it at once. Mistakes are answered with one line on
stderr and exit code 2.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dynvgd_jax.core.begin import main_of

if __name__ == "__main__":  # first of all, as the packages below may be missing
    sys.exit(main_of("dynvgd_jax.launch", "dynvgd_jax.launch")(sys.argv))

# Read by XLA when it is imported: no chatter.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags
from ml_collections import ConfigDict

from dynvgd_jax.core import overrides
from dynvgd_jax.core.command import define_quiet, run_main
from dynvgd_jax.core.command_line import expand
from dynvgd_jax.core.config_file import config_files
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import check_choice
from dynvgd_jax.core.jax_start import import_jax, open_devices
from dynvgd_jax.core.output import quietly
from dynvgd_jax.runs.compile_cache import use_compile_cache
from dynvgd_jax.runs.signals import StopSignals

JOBS = ("train", "compare", "pretrain", "demos", "agent")
_MEMORY_ADVICE = "lower critic.*, batch_size, replay.capacity or num_envs"


def main(argv: list[str]) -> int:
    """Runs the job that `argv` names and returns the exit code."""

    def body() -> None:
        command = parse(argv)
        with quietly(command.quiet):
            run_job(command)

    def usage() -> str:
        return __doc__ + f"\nConfigurations: {', '.join(config_files())}"

    return run_main("launch.py", argv, usage, body, memory_advice=_MEMORY_ADVICE)


class Command(NamedTuple):
    """What the command line asks for."""

    config: ConfigDict  # locked
    workdir: Path
    resume: bool
    # Arguments of processes.start, (None, None, None) where the cluster tells; None is
    # a run of one process.
    cluster: tuple | None
    print_commands: bool
    quiet: bool
    typed: tuple[str, ...]  # fields that the command line names


def parse(argv: list[str]) -> Command:
    """Returns what the command line asks for.

    Raises:
      UserError: whatever is wrong with the command line or the configuration.
    """
    config_flag, values = overrides.parse(argv, _define_flags)
    config = values.config
    check_choice("job", config.job, JOBS)
    if config.job == "train":
        import_jax()
        from dynvgd_jax.training.check import check_train

        check_train(config, resume=values.resume)
    if values.workdir is not None and not values.workdir.strip():
        raise UserError("--workdir: found nothing, expected a folder")
    workdir = expand(values.workdir or default_workdir(config_flag, config))
    cluster = _cluster(values)
    for flag, given in (("resume", values.resume), ("distributed", cluster)):
        if given and config.job != "train":
            raise UserError(f"--{flag} is for training runs, found job {config.job}")
    if values.print_commands and config.job != "compare":
        raise UserError(f"--print_commands is for comparisons, found job {config.job}")
    if not values.resume and cluster is None and config.job != "compare":
        check_workdir(workdir)
    options = (values.resume, cluster, values.print_commands, values.quiet)
    return Command(config, workdir, *options, overrides.typed_fields(argv))


def _define_flags(values: flags.FlagValues) -> None:
    options = {"flag_values": values}
    flags.DEFINE_string("workdir", None, "Where results go.", **options)
    flags.DEFINE_bool("resume", False, "Go on with a run.", **options)
    flags.DEFINE_bool("print_commands", False, "Run nothing.", **options)
    define_quiet(values)
    flags.DEFINE_bool("distributed", False, "In a cluster.", **options)
    flags.DEFINE_string("coordinator", None, "HOST:PORT.", **options)
    flags.DEFINE_integer("num_processes", None, "Of the run.", 1, **options)
    flags.DEFINE_integer("process_id", None, "This one's.", 0, **options)


def _cluster(values: flags.FlagValues) -> tuple | None:
    """The arguments of `processes.start`, None where there is one process."""
    names = ("coordinator", "num_processes", "process_id")
    explicit = tuple(values[name].value for name in names)
    missing = [name for name, value in zip(names, explicit) if value is None]
    if len(missing) == len(names):
        return explicit if values.distributed else None
    if missing:
        raise UserError(
            f"--{missing[0]}: missing, expected beside the others of "
            + ", ".join(f"--{name}" for name in names)
        )
    if values.process_id >= values.num_processes:
        raise UserError(
            f"--process_id: found {values.process_id}, expected 0 to "
            f"{values.num_processes - 1}, below --num_processes"
        )
    return explicit


def default_workdir(config_flag: str, config: ConfigDict) -> str:
    """Returns e.g. `runs/square_ddim8-quick-seed0`, for demonstrations `data/can`."""
    if config.job == "demos":
        return f"data/{config.task}"
    if config.job == "agent":
        return f"data/{config.task}_agent"
    path, _, preset = config_flag.partition(":")
    name = Path(path).stem + (f"-{preset}" if preset else "")
    if config.job == "compare":
        return f"runs/{name}"
    if config.job == "train" and config.num_seeds > 1:
        return f"runs/{name}-seeds{config.seed}-{config.seed + config.num_seeds - 1}"
    return f"runs/{name}-seed{config.seed}"


def check_workdir(workdir: Path) -> None:
    """Raises UserError unless `workdir` is new or empty and can be written."""
    try:
        taken = workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir()))
    except OSError as error:
        raise UserError(f"--workdir: {workdir}: {error.strerror}") from error
    if taken:
        raise UserError(
            f"the run folder {workdir} exists and is not empty; nothing was changed; "
            "remove it or give another with --workdir=FOLDER"
        )
    parent = next(p for p in (workdir, *workdir.absolute().parents) if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"--workdir: cannot create {workdir}: {parent} is not writable")


def run_job(command: Command) -> None:
    """Hands the run to its module; only now are JAX and the simulator imported."""
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)
    use_compile_cache()
    config, workdir = command.config, command.workdir
    if config.job == "train":
        with StopSignals() as stop:
            import_jax()
            with _joined(command):
                open_devices()
                from dynvgd_jax.training.loop import train

                options = {"resume": True} if command.resume else {}
                train(config, workdir, stop=stop, **options)
        return
    if config.job == "compare":
        with StopSignals() as stop:
            import_jax()
            from dynvgd_jax.compare.run import compare

            options = {"print_commands": command.print_commands, "typed": command.typed}
            compare(config, workdir, stop=stop, **options)
        return
    if config.job == "pretrain":
        open_devices()
        from dynvgd_jax.training.pretrain import pretrain as job
    elif config.job == "agent":
        open_devices()
        from dynvgd_jax.demos.ppo import train_agent as job
    elif "agents" in config:
        from dynvgd_jax.demos.gym_demos import run as job
    else:
        from dynvgd_jax.demos.collect import run as job
    job(config, workdir)


@contextlib.contextmanager
def _joined(command: Command) -> Iterator[None]:
    """Joins the run's other processes, if any; the first looks after the folder."""
    if command.cluster is None:
        yield
        return
    from dynvgd_jax.training import processes
    from dynvgd_jax.training.failing import failing_together

    processes.start(*command.cluster)
    with failing_together():
        if not command.resume:
            processes.by_first(lambda: check_workdir(command.workdir))
        yield
