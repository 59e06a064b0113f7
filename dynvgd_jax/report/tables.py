"""Every table of the report: one description for the page, one for its CSV file."""

import math
import statistics as plain
from collections.abc import Sequence
from typing import NamedTuple

from dynvgd_jax.core.scores import RETURN, SUCCESS
from dynvgd_jax.report import statistics
from dynvgd_jax.report.commands import command_of, is_kept
from dynvgd_jax.report.grouping import Panel, Setting, differing, rate, value_text
from dynvgd_jax.report.reading import Episode, Run
from dynvgd_jax.report.statistics import Bounds, Estimate

THRESHOLDS = (0.5, 0.8, 0.9)


class Table(NamedTuple):
    """Rows of text, whole numbers, numbers, Estimates, or None for what is missing."""

    name: str  # of the CSV file, without its ending
    title: str
    headings: tuple[str, ...]
    rows: list[tuple]
    note: str = ""


class Score(NamedTuple):
    """Success of what is compared in one part: each run's, and by episode."""

    label: str
    rates: list[float]  # of each run; the base policy has one
    by_episode: dict[int, float]  # mean over runs


def scores(panel: Panel) -> list[Score]:
    """Returns what is compared: settings where all were evaluated, base policies."""
    found = [
        score(setting, panel.compared_at or setting.common_steps[-1])
        for setting in panel.trained
    ]
    return found + base_scores(panel)


def score(setting: Setting, steps: int) -> Score:
    """Returns the success of a setting at control steps that its runs share."""
    each = [
        {seed: float(e.success) for seed, e in run.steered[steps].items()}
        for run in setting.evaluated
    ]
    by_episode = statistics.mean_by_episode(each)
    return Score(setting.label, setting.rates_at(steps), by_episode)


def base_scores(panel: Panel) -> list[Score]:
    """Returns the base policy's success, a Score each start noise."""
    return [
        Score(name, [rate(own)], {seed: float(e.success) for seed, e in own.items()})
        for name, own in panel.bases.items()
    ]


def evaluations(panels: Sequence[Panel]) -> Table:
    """Every evaluation of every setting: the numbers behind the first figures."""
    rows = []
    for panel in panels:
        for name, own in panel.bases.items():
            found = _of_run(own, panel.within)
            any_step = plain.fmean(e.success_any for e in own.values())
            total = plain.fmean(e.total for e in own.values())
            each = f"{found.value:.3f}"
            rows.append(
                (panel.title, name, 0, None, found, "episodes", each, any_step, total)
            )
        for setting in panel.trained:
            for steps in setting.common_steps:
                rows.append((panel.title, setting.label, *_evaluation(setting, steps)))
    what = _what(panels)
    headings = ("task", "setting", "control steps", "minutes", what, "interval")
    headings += ("of each seed", "success at any step", "return")
    note = (
        "Success of a whole chunk, the mean over seeds with its 95 % interval over "
        "seeds (t of fewer than 5, else bootstrap); of one seed, and of the base "
        "policy, with the Wilson interval over episodes."
    )
    return Table("evaluations", "All evaluations", headings, rows, note)


def _what(panels: Sequence[Panel]) -> str:
    """The heading of what episodes are judged by."""
    kinds = dict.fromkeys(panel.measure for panel in panels)
    return " or ".join("success" if kind == SUCCESS else kind for kind in kinds)


def _evaluation(setting: Setting, steps: int) -> tuple:
    episodes = [list(run.steered[steps].values()) for run in setting.evaluated]
    minutes = plain.fmean(run.minutes_at(steps) for run in setting.evaluated)
    return (
        steps,
        minutes,
        success(setting, steps),
        "seeds" if len(episodes) > 1 else "episodes",
        ", ".join(f"{x:.3f}" for x in setting.rates_at(steps)),
        plain.fmean(e.success_any for own in episodes for e in own),
        plain.fmean(e.total for own in episodes for e in own),
    )


def success(setting: Setting, steps: int) -> Estimate:
    """Returns the setting's success with the interval that its seeds allow."""
    runs = setting.evaluated
    if len(runs) == 1:
        return _of_run(runs[0].steered[steps], setting.within)
    return statistics.mean_over_runs(setting.rates_at(steps), setting.within)


def _of_run(episodes: dict[int, Episode], within: Bounds) -> Estimate:
    return statistics.success_of_run([e.success for e in episodes.values()], within)


def comparison(panel: Panel) -> Table:
    """The main numbers of one part."""
    rows = []
    for setting in panel.trained:
        steps = panel.compared_at or setting.common_steps[-1]
        rates = setting.rates_at(steps)
        reached = [_reach_text(setting, t) for t in _thresholds(panel)]
        middle = statistics.interquartile_mean([rates], panel.within)
        found = success(setting, steps)
        rows.append((setting.label, len(rates), steps, found, middle, *reached))
    for base in base_scores(panel):
        own = list(base.by_episode.values())
        found = statistics.success_of_run(own, panel.within)
        reached = ["0" if found.value >= t else "never" for t in _thresholds(panel)]
        rows.append((base.label, 1, 0, found, Estimate(found.value), *reached))
    what = _what([panel])
    headings = ("setting", "seeds", "control steps", what, "interquartile mean")
    headings += tuple(f"steps to {t:.0%}" for t in _thresholds(panel))
    note = (
        "Steps to a success: the first evaluation that reaches it, the median over "
        "seeds and how many of them did. The interquartile mean drops the highest and "
        "the lowest quarter of the seeds, none of up to three."
    )
    title = (
        f"{what.capitalize()} at {panel.compared_at:,} control steps"
        if panel.compared_at
        else f"{what.capitalize()} at each setting's last evaluation"
    )
    return Table("comparison", title, headings, rows, note)


def _thresholds(panel: Panel) -> tuple[float, ...]:
    """Successes, or scores; a return alone has no scale."""
    return () if panel.measure == RETURN else THRESHOLDS


def _reach_text(setting: Setting, threshold: float) -> str:
    """E.g. `64,000 (3 of 3)`, `never (0 of 3)`; the median of unreached is never."""
    each = [_reached(run, threshold) for run in setting.evaluated]
    done = sum(steps is not None for steps in each)
    middle = plain.median_high(math.inf if s is None else s for s in each)
    text = "never" if math.isinf(middle) else f"{middle:,.0f}"
    return f"{text} ({done} of {len(each)})"


def _reached(run: Run, threshold: float) -> int | None:
    points = {steps: rate(own) for steps, own in run.steered.items()}
    return statistics.first_reach(points, threshold)


def steps_to(panels: Sequence[Panel]) -> Table:
    """Control steps and minutes to each success, run by run, for the CSV file."""
    rows = []
    for panel in panels:
        for setting in panel.trained:
            for run in setting.evaluated:
                for threshold in _thresholds(panel):
                    steps = _reached(run, threshold)
                    minutes = None if steps is None else run.minutes_at(steps)
                    own = (setting.label, run.config["seed"], threshold, steps, minutes)
                    rows.append((panel.title, *own))
    headings = ("task", "setting", "seed", "success", "control steps", "minutes")
    return Table("steps_to", "Steps to a success, run by run", headings, rows)


def improvement(panel: Panel) -> Table:
    """Probability of improvement and differences, pair by pair, of one part."""
    every = scores(panel)
    rows = []
    for i, ours in enumerate(every[: len(panel.trained)]):
        for theirs in every[i + 1 :]:
            rows.append(
                (
                    ours.label,
                    theirs.label,
                    statistics.probability_of_improvement([ours.rates], [theirs.rates]),
                    statistics.difference_over_episodes(
                        ours.by_episode, theirs.by_episode
                    ),
                    len(ours.by_episode.keys() & theirs.by_episode.keys()),
                    statistics.difference_over_runs(
                        ours.rates,
                        theirs.rates,
                        theirs_trained=not theirs.label.startswith("base/"),
                        within=panel.within,
                    ),
                )
            )
    headings = ("X", "Y", "P(X > Y)", "X - Y, over episodes", "equal episodes")
    headings += ("X - Y, over seeds",)
    note = (
        "P(X > Y): how probably a seed of X scores higher than one of Y, ties half. "
        "Differences of success, with 95 % intervals: over the episodes that both "
        "played, seeds as they are; and over seeds, none where a trained side has one. "
        "An effect that only the first shows may be one of these seeds."
    )
    note = note if rows else ""
    return Table("improvement", "Pair by pair", headings, rows, note)


def differences(panels: Sequence[Panel]) -> Table:
    """The first setting of each part minus every other, at each evaluation of both."""
    rows = []
    for panel in panels:
        for theirs in panel.trained[1:]:
            ours = panel.trained[0]
            for steps in sorted({*ours.common_steps} & {*theirs.common_steps}):
                x, y = score(ours, steps), score(theirs, steps)
                found = statistics.difference_over_episodes(x.by_episode, y.by_episode)
                seeds = statistics.difference_over_runs(
                    x.rates, y.rates, within=panel.within
                )
                rows.append((panel.title, x.label, y.label, steps, found, seeds))
    headings = ("task", "X", "Y", "control steps", "X - Y, over episodes")
    headings += ("X - Y, over seeds",)
    return Table("differences", "Differences at each evaluation", headings, rows)


def over_tasks(panels: Sequence[Panel]) -> Table | None:
    """Interquartile means over all parts, and who improves on whom; None for one part.

    Only what stands under one name in every part has them; a mean, where all parts are
    judged on one scale.
    """
    by_panel = [{s.label: s.rates for s in scores(panel)} for panel in panels]
    labels = [n for n in by_panel[0] if all(n in own for own in by_panel)]
    if len(panels) < 2 or not labels:
        return None
    rows = []
    kinds = {panel.measure for panel in panels}
    for label in labels if len(kinds) == 1 and RETURN not in kinds else ():
        ours = [own[label] for own in by_panel]
        rows.append((label, None, statistics.interquartile_mean(ours), None))
    trained = [x for x in labels if not x.startswith("base/")]
    for i, label in enumerate(trained):
        for other in (*trained[i + 1 :], *(x for x in labels if x not in trained)):
            ours, theirs = ([own[x] for own in by_panel] for x in (label, other))
            chance = statistics.probability_of_improvement(ours, theirs)
            rows.append((label, other, None, chance))
    headings = ("X", "Y", "interquartile mean of X", "P(X > Y)")
    titles = "; ".join(panel.title for panel in panels)
    note = f"Over {titles}: all runs of all parts together, drawn within each part."
    return Table("over_tasks", "Over all tasks", headings, rows, note)


def runs_table(panels: Sequence[Panel]) -> Table:
    """Every run: how far, how long, how good."""
    rows = []
    for panel in panels:
        for setting in panel.settings:
            for run in setting.runs:
                last = max(run.steered, default=None)
                found = None
                if last is not None:
                    found = _of_run(run.steered[last], panel.within)
                rows.append(
                    (
                        panel.title,
                        setting.label,
                        run.config["seed"],
                        run.name,
                        "finished" if run.is_finished else "unfinished",
                        run.control_steps,
                        run.minutes,
                        last,
                        found,
                    )
                )
    headings = ("task", "setting", "seed", "run", "state", "control steps", "minutes")
    headings += ("last evaluated at", f"{_what(panels)} there")
    return Table("runs", "Runs", headings, rows)


def fields_table(panels: Sequence[Panel]) -> Table:
    """The configuration fields in which settings differ, a column each setting."""
    settings = [
        (f"{panel.title}: {s.label}" if len(panels) > 1 else s.label, s)
        for panel in panels
        for s in panel.settings
    ]
    configs = [s.runs[0].config for _, s in settings]
    rows = [
        (name, *(value_text(config.get(name)) for config in configs))
        for name in differing(configs)
        if name != "seed"
    ]
    headings = ("field", *(label for label, _ in settings))
    note = "" if rows else "All runs have one configuration but for their seeds."
    return Table("fields", "What differs in the configurations", headings, rows, note)


def versions_table(runs: Sequence[Run]) -> Table:
    """Versions of what decides the numbers, and which runs had them."""
    known = [run for run in runs if run.versions]
    rows = []
    for package in sorted(set().union(*(run.versions for run in known))):
        holders: dict[str, list[str]] = {}
        for run in known:
            version = run.versions.get(package, "absent")
            holders.setdefault(version, []).append(run.name)
        for version, names in holders.items():
            where = "all runs" if len(names) == len(runs) else ", ".join(names)
            rows.append((package, version, where))
    return Table("versions", "Versions", ("package", "version", "runs"), rows)


def commands_table(panels: Sequence[Panel]) -> Table:
    """The command of every run."""
    rows = [
        (
            panel.title,
            setting.label,
            run.config["seed"],
            run.name,
            command_of(run),
            "as typed" if is_kept(run) else "worked out",
        )
        for panel in panels
        for setting in panel.settings
        for run in setting.runs
    ]
    headings = ("task", "setting", "seed", "run", "command", "source")
    note = (
        "As typed when the run began (of several seeds in one run, for all of them; "
        "what a resumption changed is in config.json), or, where the run keeps no "
        "command of launch.py, worked out: the same configuration in this version of "
        "the program. With another --workdir it makes the run again."
    )
    return Table("commands", "Commands", headings, rows, note)
