"""Which runs belong together: seeds of a setting, settings of a task, what differs."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from dynvgd_jax.core.scores import SUCCESS, measure
from dynvgd_jax.report.reading import Episode, Run
from dynvgd_jax.report.statistics import ANY, RATES, Bounds

# What seeds of one setting may differ in: nothing that changes their numbers.
FREE_FIELDS = ("seed", "num_seeds", "env.num_threads", "eval.num_envs")
FREE_FIELDS += ("eval.every_env_steps", "checkpoint.every_env_steps")
FREE_FIELDS += ("log.every_env_steps",)
# What settings of one task must share for their success to be comparable.
EQUAL_FIELDS = ("eval.seed", "eval.episodes", "base_policy", "acting_noise")
EQUAL_FIELDS += ("reward_offset", "env.engine")
EQUAL_VERSIONS = ("dynvgd_jax", "git_commit", "mujoco", "robosuite")
_PLACES = ("task", "policy_kind", "ddim_steps")  # they choose the part of the page
_SEED_AT_END = re.compile(r"[-_/]?seed\d+$")


class Setting(NamedTuple):
    """The seeds of one configuration."""

    label: str  # the method, with what tells it from others of the method
    runs: list[Run]  # by seed, each once

    @property
    def within(self) -> Bounds:
        """What an episode's worth can be."""
        return bounds_of(self.runs[0].config["task"])

    @property
    def evaluated(self) -> list[Run]:
        """The runs that have an evaluation of what they train."""
        return [run for run in self.runs if run.steered]

    @property
    def common_steps(self) -> list[int]:
        """Control steps at which all evaluated runs have an evaluation, rising."""
        each = [set(run.steered) for run in self.evaluated]
        return sorted(set.intersection(*each)) if each else []

    def rates_at(self, control_steps: int) -> list[float]:
        """Success of each evaluated run (whole chunk)."""
        return [rate(run.steered[control_steps]) for run in self.evaluated]


class Panel(NamedTuple):
    """One task, kind of policy and number of decode steps: what can be compared."""

    task: str
    policy_kind: str
    ddim_steps: int
    settings: list[Setting]
    # The base policy's episodes by its name and start noise, of the first with them.
    bases: dict[str, dict[int, Episode]]

    @property
    def measure(self) -> str:
        """What episodes are judged by."""
        return measure(self.task)

    @property
    def within(self) -> Bounds:
        """What an episode's worth can be."""
        return bounds_of(self.task)

    @property
    def title(self) -> str:
        if self.policy_kind == "diffusion_mlp":
            return f"{self.task}, DDIM {self.ddim_steps}"
        return f"{self.task}, {self.policy_kind}, {self.ddim_steps} steps"

    @property
    def trained(self) -> list[Setting]:
        """The settings with an evaluation of what they train."""
        return [setting for setting in self.settings if setting.common_steps]

    @property
    def compared_at(self) -> int | None:
        """The last control steps at which all trained settings were evaluated."""
        each = [set(setting.common_steps) for setting in self.trained]
        common = set.intersection(*each) if each else set()
        return max(common, default=None)


def bounds_of(task: str) -> Bounds:
    """Returns what an episode's worth can be."""
    return RATES if measure(task) == SUCCESS else ANY


def rate(episodes: dict[int, Episode]) -> float:
    """Returns the mean of `Episode.success`: of the task, the share that succeeded."""
    return sum(e.success for e in episodes.values()) / len(episodes)


def group(runs: Sequence[Run]) -> tuple[list[Panel], list[str]]:
    """Returns the parts of the page, and lines on what spoils their comparison."""
    places: dict[tuple, list[Run]] = defaultdict(list)
    for run in runs:
        places[tuple(run.config[field] for field in _PLACES)].append(run)
    notes: list[str] = []
    panels = []
    for place, own in sorted(places.items()):
        settings = _settings(own, notes)
        bases: dict[str, dict[int, Episode]] = {}
        for run in own:
            bases = run.bases | bases
        panel = Panel(*place, settings, dict(sorted(bases.items())))
        panels.append(panel)
        notes += _unequal(panel)
    return panels, notes + _unequal_ddim(panels)


def _settings(runs: Sequence[Run], notes: list[str]) -> list[Setting]:
    by_config: dict[tuple, dict[int, Run]] = defaultdict(dict)
    for run in sorted(runs, key=lambda run: -run.control_steps):
        key = tuple(sorted((k, repr(v)) for k, v in _fixed(run).items()))
        seed = run.config["seed"]
        if seed in by_config[key]:
            kept = by_config[key][seed].name
            notes.append(
                f"left out: {run.name} has the settings and the seed of {kept}"
            )
        by_config[key].setdefault(seed, run)
    members = [[own[s] for s in sorted(own)] for _, own in sorted(by_config.items())]
    members.sort(key=lambda own: (_rank(own[0].config["method"]), own[0].name))
    labels = _labels([own[0] for own in members])
    return [Setting(label, own) for label, own in zip(labels, members, strict=True)]


def _fixed(run: Run) -> dict[str, Any]:
    """The fields that make a setting."""
    return {k: v for k, v in run.config.items() if k not in FREE_FIELDS}


def _rank(method: str) -> tuple:
    """Dynamic VGD first, so that it has the first colour; the base policy last."""
    return {"dynvgd": 0, "base": 2}.get(method, 1), method


def _labels(firsts: Sequence[Run]) -> list[str]:
    """Each setting's method, with the fields that tell it from others of the method."""
    labels = []
    for run in firsts:
        method = run.config["method"]
        same = [other for other in firsts if other.config["method"] == method]
        fields = differing(_fixed(other) for other in same)
        if not fields:
            labels.append(method)
        elif len(fields) <= 3:
            texts = [f"{f}={value_text(run.config.get(f))}" for f in fields]
            labels.append(f"{method} ({', '.join(texts)})")
        else:  # too many to read: the folder tells
            labels.append(f"{method}: {_SEED_AT_END.sub('', run.name)}")
    repeated = {label for label in labels if labels.count(label) > 1}
    return [
        f"{run.config['method']}: {run.name}" if label in repeated else label
        for label, run in zip(labels, firsts, strict=True)
    ]


def value_text(value: Any) -> str:
    """Returns a field's value as it is written on the command line."""
    if isinstance(value, tuple | list):
        return ",".join(map(str, value)) if value else "()"
    return "absent" if value is None else f"{value!s}" or '""'


def differing(configs: Iterable[dict[str, Any]]) -> list[str]:
    """Returns the names whose values differ, absent ones included, sorted."""
    configs = list(configs)
    names = sorted(set().union(*configs))
    return [n for n in names if len({repr(c.get(n)) for c in configs}) > 1]


def _unequal(panel: Panel) -> list[str]:
    """Lines on what the settings of a part differ in and should not."""
    runs = [run for setting in panel.settings for run in setting.runs]
    notes = []
    for field in EQUAL_FIELDS:
        holders = _holders((r.config.get(field), r.name) for r in runs)
        if len(holders) > 1:
            notes.append(
                f"{panel.title}: {field} must be equal for a comparison, but is "
                + _holders_text(holders)
            )
    for package in EQUAL_VERSIONS:
        known = [r for r in runs if r.versions]
        holders = _holders((r.versions.get(package), r.name) for r in known)
        if len(holders) > 1:
            notes.append(
                f"{panel.title}: runs of different versions: {package} is "
                + _holders_text(holders)
            )
    for policy in panel.bases:
        known = [r for r in runs if policy in r.bases]
        holders = _holders((_outcomes(r.bases[policy]), r.name) for r in known)
        if len(holders) > 1:
            named = [(f"{sum(dict(k).values()) / len(k):.3f}", v) for k, v in holders]
            notes.append(
                f"{panel.title}: {policy} has other outcomes on its episodes in other "
                "runs (another base policy, other episodes, or another machine's "
                f"rounding): {_holders_text(named)}"
            )
    return notes + _unequal_steps(panel)


def _unequal_steps(panel: Panel) -> list[str]:
    """Lines on settings that were not evaluated after as many control steps."""
    notes = [
        f"{panel.title}: {setting.label} has no evaluation yet that its seeds share"
        for setting in panel.settings
        if setting.runs[0].config["method"] != "base" and not setting.common_steps
    ]
    steps = panel.compared_at
    ends = [(s.label, s.common_steps[-1]) for s in panel.trained]
    if ends and steps is None:
        text = ", ".join(f"{label} at {end:,}" for label, end in ends)
        notes.append(
            f"{panel.title}: no control steps at which all settings were evaluated, "
            f"compared at the last of each: {text}"
        )
    further = [f"{label} {end:,}" for label, end in ends if end > (steps or end)]
    if further:
        notes.append(
            f"{panel.title}: compared at {steps:,} control steps, the last that all "
            f"settings have; further go {', '.join(further)}"
        )
    return notes


def _outcomes(episodes: dict[int, Episode]) -> tuple:
    return tuple(sorted((seed, e.success) for seed, e in episodes.items()))


def _holders(pairs: Iterable[tuple[Any, str]]) -> list[tuple[Any, list[str]]]:
    """Each value with the names of the runs that have it, in order of appearance."""
    found: dict[str, tuple[Any, list[str]]] = {}
    for value, name in pairs:
        found.setdefault(repr(value), (value, []))[1].append(name)
    return list(found.values())


def _holders_text(holders: Sequence[tuple[Any, list[str]]]) -> str:
    """The rarest values first, with their runs; the most frequent in the others."""
    *rare, (usual, names) = sorted(holders, key=lambda holder: len(holder[1]))
    texts = [f"{value_text(value)} in {', '.join(own)}" for value, own in rare]
    where = ", ".join(names) if len(names) <= 3 else f"the other {len(names)} runs"
    return "; ".join([*texts, f"{value_text(usual)} in {where}"])


def _unequal_ddim(panels: Sequence[Panel]) -> list[str]:
    """Lines on methods of a task that were not run with the same DDIM steps."""
    notes = []
    for task, kind in sorted({(panel.task, panel.policy_kind) for panel in panels}):
        own = [p for p in panels if (p.task, p.policy_kind) == (task, kind)]
        methods = {p.ddim_steps: {s.label for s in p.settings} for p in own}
        if len({frozenset(labels) for labels in methods.values()}) > 1:
            text = "; ".join(
                f"{steps} in {', '.join(sorted(labels))}"
                for steps, labels in methods.items()
            )
            notes.append(
                f"{task}: ddim_steps differs, each value has a part of its own: {text}"
            )
    return notes
