"""The runs of a comparison: which command each one is, checked before any starts."""

import re
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict

from dynvgd_jax.core import overrides
from dynvgd_jax.core.config_file import load_config
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import (
    SEED_END,
    anything,
    check_fields,
    did_you_mean,
    each,
    field_names,
    flat,
    get_field,
    number,
    one_of,
)
from dynvgd_jax.steering.methods import METHODS
from dynvgd_jax.training.check import check_train

EXECUTORS = ("local", "slurm")


def _folder_name(field: str, name: Any) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", str(name)):
        raise UserError(
            f"config.{field}: found {name!r}, expected names of letters, digits and "
            "any of _.+-, which are folders too"
        )


FIELDS = {
    "compare.base": anything,
    "compare.methods": each(_folder_name, least=1),
    "compare.once": each(_folder_name),
    "compare.seeds": each(number(0, SEED_END), least=1),
    "compare.executor": one_of(EXECUTORS),
    "compare.jobs": number(1, 4096),
    "compare.slurm.partition": anything,
    "compare.slurm.timeout_min": number(15, 100_000),
    "compare.slurm.cpus": number(1, 4096),
    "compare.slurm.gpus": number(0, 64),
    "compare.slurm.mem_gb": number(1, 100_000),
}
# What the comparison itself gives each run.
_GIVEN = {"method": "compare.methods", "seed": "compare.seeds"}
_GIVEN["num_seeds"] = "compare.seeds"


class Run(NamedTuple):
    """One run of a comparison."""

    name: str  # of its method in the comparison
    seed: int
    folder: Path
    flags: tuple[str, ...]  # of launch.py; --resume goes behind them
    config: ConfigDict  # that they make, locked
    config_file: str  # with its preset
    overrides: dict[str, Any]  # what the comparison gives this method alone

    @property
    def label(self) -> str:
        """What people read, such as `vgd seed 3`."""
        return f"{self.name} seed {self.seed}"

    @property
    def log(self) -> Path:
        """What the run prints, each attempt behind the others."""
        return self.folder.with_name(f"{self.folder.name}.log")


class Plan(NamedTuple):
    """A comparison."""

    workdir: Path
    base: str  # configuration that is compared, with its preset
    shared: dict[str, Any]  # what all runs have unlike their configuration files
    runs: tuple[Run, ...]  # seed by seed, so that all methods advance alike


def make_plan(config: ConfigDict, workdir: Path, typed: Collection[str] = ()) -> Plan:
    """Returns the runs of a comparison.

    Args:
      config: of configs/compare_*.py, as the command line left it.
      workdir: of the comparison; runs are in `<method>/seed_<seed>` inside.
      typed: fields that the command line names: methods with a configuration of their
        own have them too, even where they are as in `compare.base`.

    Raises:
      UserError: a field makes no sense, in the comparison or in one of its runs.
    """
    check_fields(config, FIELDS)
    compare = config.compare
    _refuse_repeated("methods", compare.methods)
    _refuse_repeated("seeds", compare.seeds)
    base = load_config(compare.base)
    shared = _shared(config, base, typed)
    said = {
        name: get_field(config, name) for name in field_names(base) if name in typed
    }
    said.pop("job", None)
    names = compare.methods
    first = {
        name: _first_run(
            config, name, shared | (said if name in compare.configs else {}), workdir
        )
        for name in names
    }
    runs = [
        _with_seed(first[name], seed)
        for seed in compare.seeds
        for name in names
        if name not in compare.once or seed == compare.seeds[0]
    ]
    return Plan(workdir, compare.base, shared, tuple(runs))


def program() -> tuple[str, ...]:
    """Returns the command that started this process, without its arguments."""
    spec = sys.modules["__main__"].__spec__
    if spec is not None:  # python -m dynvgd_jax.launch
        return (sys.executable, "-m", spec.name)
    return (sys.executable, sys.argv[0])


def config_flags(values: Mapping[str, Any]) -> list[str]:
    """Returns fields by dotted name as they are written on the command line."""
    return [f"--config.{name}={_text(value)}" for name, value in values.items()]


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _refuse_repeated(field: str, values: Iterable[Any]) -> None:
    values = tuple(values)
    repeated = [value for value in dict.fromkeys(values) if values.count(value) > 1]
    if repeated:
        raise UserError(
            f"config.compare.{field}: found {', '.join(map(str, repeated))} more than "
            "once, expected each once"
        )


def _shared(
    config: ConfigDict, base: ConfigDict, typed: Collection[str]
) -> dict[str, Any]:
    """What the comparison sets for all runs: where it differs from its base."""
    shared = {}
    for name in field_names(base):
        found, before = get_field(config, name), get_field(base, name)
        given = name in _GIVEN and name in typed
        if name == "job" or (found == before and not given):
            continue
        if name in _GIVEN:
            raise UserError(
                f"config.{name}: found {found!r}, but a comparison runs each of "
                f"config.{_GIVEN[name]}; set that one"
            )
        shared[name] = found
    return shared


def _first_run(
    config: ConfigDict, name: str, shared: dict[str, Any], workdir: Path
) -> Run:
    """The run of a method with the comparison's first seed."""
    compare = config.compare
    own = flat(compare.overrides.get(name, ConfigDict()))
    config_file = compare.configs.get(name, compare.base)
    method = own.get("method")
    if method is None and name not in compare.configs:
        method = name
    if method not in (None, *METHODS):
        raise UserError(
            f"config.compare.methods: found {name!r}, expected one of "
            f"{', '.join(METHODS)}, or a name whose method compare.overrides tells"
            f"{did_you_mean(str(method), METHODS)}"
        )
    for given in ("seed", "num_seeds", "job"):
        if given in own:
            raise UserError(
                f"config.compare.overrides.{name}.{given}: a comparison gives that to "
                "its runs; leave it out"
            )
    fields = shared | ({} if method is None else {"method": method}) | own
    arguments = (f"--config={config_file}", *config_flags(fields))
    try:
        _, values = overrides.parse(["launch.py", *arguments], _no_flags)
        check_train(values.config)
    except UserError as error:
        raise UserError(f"method {name}: {error}") from error
    folder = workdir / name / "seed"
    return Run(name, 0, folder, arguments, values.config, config_file, own)


def _with_seed(first: Run, seed: int) -> Run:
    config = ConfigDict(first.config.to_dict())
    config.seed = seed
    folder = first.folder.with_name(f"seed_{seed}")
    arguments = (*first.flags, f"--config.seed={seed}", f"--workdir={folder}")
    return first._replace(
        seed=seed, folder=folder, flags=arguments, config=config.lock()
    )


def _no_flags(values: flags.FlagValues) -> None:
    """A run has no flags but those of its configuration."""
