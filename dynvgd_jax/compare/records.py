"""comparison.json: which runs a comparison has; whether a folder is another's."""

import json
import re
from pathlib import Path
from typing import Any

from dynvgd_jax.compare.plan import Plan, Run
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import flat
from dynvgd_jax.core.untrusted import load_json
from dynvgd_jax.runs.durable import write_durably
from dynvgd_jax.runs.lock import LOCK_FILE
from dynvgd_jax.runs.settings import CONFIG_FILE, read_config
from dynvgd_jax.training.resume import is_finished

COMPARISON_FILE = "comparison.json"
# Fields that change nothing of what a run computes.
_FREE = ("env.num_threads", "checkpoint.", "log.")
# What lies in a method's folder: runs, and each one's log and lock.
_OF_RUNS = re.compile(r"\.?seed_\d+(\.log|\.lock)?")


def check_folder(plan: Plan, cores: int) -> list[str]:
    """Refuses the folder of another comparison, or of something else.

    Methods and seeds may be added to a comparison, which then goes on. So do runs that
    were started by hand, by what `print_commands` prints.

    Args:
      plan: what shall run.
      cores: of each run.

    Returns: what the user should know, in words.

    Raises:
      UserError: it is another one; says in what.
    """
    folder = plan.workdir
    if not folder.exists():
        return []
    path = folder / COMPARISON_FILE
    if not path.is_file():
        if not _holds_runs_alone(plan):
            raise UserError(
                f"{folder} exists and holds no {COMPARISON_FILE}; nothing was changed; "
                "give another folder with --workdir"
            )
        old = describe(plan, cores)
    else:
        old = load_json(path)
    differences = _differences(old, describe(plan, cores))
    for run in plan.runs:
        differences += [f"{run.label}: {text}" for text in _run_differences(run)]
    if differences:
        shown = "; ".join(differences[:4])
        rest = f" and {len(differences) - 4} more" if len(differences) > 4 else ""
        raise UserError(
            f"{folder} holds another comparison: {shown}{rest}; nothing was changed; "
            "give the old values, or another folder with --workdir"
        )
    if old.get("cores_per_run") != cores:
        return [
            f"each run has {cores} core(s), before {old.get('cores_per_run')}: its "
            "numbers are others, by rounding"
        ]
    return []


def begun(run: Run) -> bool:
    """Whether there is something to go on with."""
    return run.folder.is_dir() and any(run.folder.iterdir())


def finished(run: Run) -> bool:
    """Whether the run has done all that it shall."""
    if not (run.folder / CONFIG_FILE).is_file():
        return False
    try:
        return is_finished(run.folder)
    except UserError:
        return False  # its newest checkpoint is damaged; it goes on from another


def describe(plan: Plan, cores: int) -> dict[str, Any]:
    """Returns the content of comparison.json; equal for equal states of all runs."""
    content = {
        "base": plan.base,
        "shared": plan.shared,
        "cores_per_run": cores,
        "runs": [
            {
                "method": run.name,
                "seed": run.seed,
                "folder": run.folder.relative_to(plan.workdir).as_posix(),
                "config": run.config_file,
                "overrides": run.overrides,
                "flags": list(run.flags[:-1]),  # but for the folder, which may move
                "finished": finished(run),
            }
            for run in plan.runs
        ],
    }
    return json.loads(json.dumps(content))  # tuples are lists there


def write(plan: Plan, cores: int) -> None:
    """Writes comparison.json into the comparison's folder, which exists."""
    text = json.dumps(describe(plan, cores), indent=2) + "\n"
    write_durably(Path(plan.workdir) / COMPARISON_FILE, text.encode())


def _holds_runs_alone(plan: Plan) -> bool:
    """Whether nothing but runs of the plan's methods lies in its folder."""
    if not plan.workdir.is_dir():
        return False
    methods = {plan.workdir / run.name for run in plan.runs}
    for place in plan.workdir.iterdir():
        if place.name == LOCK_FILE:
            continue
        if place not in methods or not place.is_dir():
            return False
        if not all(_OF_RUNS.fullmatch(inside.name) for inside in place.iterdir()):
            return False
    return all((run.folder / CONFIG_FILE).is_file() for run in plan.runs if begun(run))


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    try:
        found = _compare("base", old["base"], new["base"])
        found += _compare_fields("", old["shared"], new["shared"])
        runs = {(run["method"], run["seed"]): run for run in new["runs"]}
        missing, seen = [], set()
        for before in old["runs"]:
            name, seed = before["method"], before["seed"]
            after = runs.get((name, seed))
            if after is None:
                missing.append(f"{name} seed {seed}")
            elif name not in seen:
                found += _compare(f"{name}: config", before["config"], after["config"])
                pair = (before["overrides"], after["overrides"])
                found += _compare_fields(f"{name}: ", *pair)
                seen.add(name)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{COMPARISON_FILE} is damaged: {error!r}; give another --workdir"
        ) from error
    if missing:
        found.append(f"it has also the runs {', '.join(missing)}")
    return found


def _compare(name: str, old: Any, new: Any) -> list[str]:
    return [f"{name}: {old!r} -> {new!r}"] if old != new else []


def _compare_fields(prefix: str, old: dict, new: dict) -> list[str]:
    found = []
    for name in sorted({*old, *new}):
        if not name.startswith(_FREE):
            pair = (old.get(name, "unset"), new.get(name, "unset"))
            found += _compare(f"{prefix}config.{name}", *pair)
    return found


def _run_differences(run: Run) -> list[str]:
    """What the run in its folder has otherwise; the files of `config` may be newer."""
    if not (run.folder / CONFIG_FILE).is_file():
        return []
    old = flat(read_config(run.folder))
    return _compare_fields("", old, flat(run.config))
