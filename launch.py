r"""Runs one job: training, pre-training or demonstrations, as its configuration says.

  python launch.py --config=configs/square_ddim8.py
  python launch.py --config=configs/square_ddim8.py:quick --config.seed=1
  python launch.py --config=configs/can_ddim8.py --workdir=runs/wide \
      --config.critic.width=4096

--config   a file in configs/, optionally with a preset behind a colon
--config.* any field of that file (configs/base.py explains them)
--resume   go on with the training run in its folder from its newest checkpoint
--workdir  where results go; must be new or empty. Default: runs/<config>-seed<seed>,
           for demonstrations data/<task>
--distributed
           one of several processes of a training run, as SLURM, Open MPI or
           Kubernetes started them; elsewhere give all of --coordinator=HOST:PORT (of
           process 0), --num_processes=N and --process_id=0..N-1 (docs/scaling.md)

SIGTERM or SIGINT (Ctrl-C) lets a training run save a checkpoint and end with exit code
0; a second one ends it at once. Mistakes are answered with one line on stderr and exit
code 2.
"""

import errno
import importlib.util
import logging
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

# Read by XLA and MuJoCo when they are imported: no chatter, no OpenGL context.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MUJOCO_GL", "disabled")

from absl import flags
from ml_collections import ConfigDict, config_flags

from dynvgd_jax.core import config_check
from dynvgd_jax.core.errors import StuckError, UserError
from dynvgd_jax.runs.compile_cache import use_compile_cache
from dynvgd_jax.runs.signals import StopSignals

# What a disk may answer at any time, and what a path on the command line can cause;
# other OSErrors are bugs and keep their traceback.
DISK_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EIO,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)
CONFIG_FOLDER = Path(__file__).resolve().parent / "configs"
_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]*)(?:=.*)?", re.DOTALL)


def main(argv: list[str]) -> int:
    """Runs the job that `argv` names and returns the exit code."""
    if {"-h", "--help", "-help"} & set(argv[1:]):
        print(__doc__ + f"\nConfigurations: {', '.join(_config_files())}")
        return 0
    try:
        run_job(parse(argv))
    except UserError as error:
        print(f"launch.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        print(f"launch.py: {error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        # JAX reports a device without memory as RuntimeError.
        text = str(error)
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in text:
            raise
        print(
            f"launch.py: out of memory: {' '.join(text.split())[:300]}; lower "
            "critic.*, batch_size, replay.capacity or num_envs",
            file=sys.stderr,
        )
        return 2
    except StuckError as error:
        print(f"launch.py: {error}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(1)  # Python's own end would wait for the thread
    except KeyboardInterrupt:
        print("launch.py: interrupted", file=sys.stderr)
        return 130
    return 0


class Command(NamedTuple):
    """What the command line asks for."""

    config: ConfigDict  # locked
    workdir: Path
    resume: bool
    # Arguments of processes.start, (None, None, None) where the cluster tells; None is
    # a run of one process.
    cluster: tuple | None


def parse(argv: list[str]) -> Command:
    """Returns what the command line asks for.

    Raises:
      UserError: whatever is wrong with the command line or the configuration.
    """
    config_flag = _find_config(argv)
    original = load_config(config_flag)
    for argument in argv[1:]:
        match = _OVERRIDE.fullmatch(argument)
        if match:
            config_check.check_field_name(original, match[1])

    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
        flags.DEFINE_string("workdir", None, "Where results go.", flag_values=values)
        flags.DEFINE_bool("resume", False, "Go on with a run.", flag_values=values)
        flags.DEFINE_bool("distributed", False, "In a cluster.", flag_values=values)
        flags.DEFINE_string("coordinator", None, "HOST:PORT.", flag_values=values)
        flags.DEFINE_integer(
            "num_processes", None, "Of the run.", lower_bound=1, flag_values=values
        )
        flags.DEFINE_integer(
            "process_id", None, "This one's.", lower_bound=0, flag_values=values
        )
        surplus = values(argv)[1:]
    except flags.Error as error:
        raise _explain(error, original) from error
    if surplus:
        raise UserError(f"found {surplus[0]!r}, expected only --flag=value arguments")
    config = values.config
    config_check.check_choice("job", config.job, config_check.CHOICES["job"])
    if config.job == "train":
        config_check.check_train(config)
    workdir = Path(values.workdir or default_workdir(config_flag, config))
    cluster = _cluster(values)
    for flag, given in (("resume", values.resume), ("distributed", cluster)):
        if given and config.job != "train":
            raise UserError(f"--{flag} is for training runs, found job {config.job}")
    if not values.resume and cluster is None:
        check_workdir(workdir)
    return Command(config, workdir, values.resume, cluster)


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


def load_config(path_and_preset: str) -> ConfigDict:
    """Returns what `get_config(preset)` of a configuration file gives.

    Raises:
      UserError: there is no such file, or it cannot be run.
    """
    path, _, preset = path_and_preset.partition(":")
    if not Path(path).is_file():
        near = config_check.did_you_mean(Path(path).stem, map(_stem, _config_files()))
        raise UserError(
            f"no configuration file {path!r}{near}; found {', '.join(_config_files())}"
        )
    spec = importlib.util.spec_from_file_location("config_file", path)
    if spec is None:
        raise UserError(f"{path!r} is no Python file; expected one such as in configs/")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(preset) if preset else module.get_config()
    except (SyntaxError, ImportError, LookupError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    except (AttributeError, NameError, TypeError, ValueError) as error:
        raise UserError(f"{path} fails: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict) or "job" not in config:
        raise UserError(f"{path}: get_config() gave no ConfigDict with a field 'job'")
    return config


def default_workdir(config_flag: str, config: ConfigDict) -> str:
    """Returns e.g. `runs/square_ddim8-quick-seed0`, for demonstrations `data/can`."""
    if config.job == "demos":
        return f"data/{config.task}"
    path, _, preset = config_flag.partition(":")
    name = Path(path).stem + (f"-{preset}" if preset else "")
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
            if command.cluster is not None:
                _join(command)
            from dynvgd_jax.training.loop import train

            options = {"resume": True} if command.resume else {}
            train(config, workdir, stop=stop, **options)
        return
    if config.job == "pretrain":
        from dynvgd_jax.training.pretrain import pretrain as job
    else:
        from dynvgd_jax.demos.collect import run as job
    job(config, workdir)


def _join(command: Command) -> None:
    """Joins the run's other processes; the first one looks after the folder."""
    from dynvgd_jax.training import processes

    processes.start(*command.cluster)
    if not command.resume:
        processes.by_first(lambda: check_workdir(command.workdir))


def _find_config(argv: list[str]) -> str:
    found = None
    for index, argument in enumerate(argv[1:], 1):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-config"):
            found = value if equals else "".join(argv[index + 1 : index + 2])
    if not found:
        raise UserError(
            f"no configuration given; expected --config=FILE, one of "
            f"{', '.join(_config_files())}"
        )
    return found


def _config_files() -> list[str]:
    names = sorted(path.name for path in CONFIG_FOLDER.glob("*.py"))
    return [f"configs/{n}" for n in names if n not in ("base.py", "__init__.py")]


def _stem(path: str) -> str:
    return Path(path).stem


def _explain(error: flags.Error, config: ConfigDict) -> UserError:
    """Turns absl's complaint about a value into found and expected type."""
    match = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.DOTALL)
    if match and match[1] in config_check.field_names(config):
        kind = type(config_check.get_field(config, match[1])).__name__
        return UserError(f"config.{match[1]}: found {match[2]!r}, expected {kind}")
    return UserError(str(error))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
