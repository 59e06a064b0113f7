"""One evaluation by itself, from what is evaluated to its files and its table."""

import contextlib
import functools
import glob
import hashlib
import json
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from dynvgd_jax.agent import (
    POLICY,
    Agent,
    check_steering,
    find_checkpoint,
    load_agent,
)
from dynvgd_jax.core.config_file import load_config
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import check_fields
from dynvgd_jax.core.scores import judged_by_return
from dynvgd_jax.core.types import EpisodeResult
from dynvgd_jax.core.untrusted import load_json
from dynvgd_jax.diffusion.policy import Policy
from dynvgd_jax.diffusion.policy_files import (
    BUILTIN_PREFIX,
    DESCRIPTION,
    load_policy,
    locate,
)
from dynvgd_jax.envs import base as envs_base
from dynvgd_jax.envs.base import VectorEnv
from dynvgd_jax.envs.rollout import ActFn, evaluate, evaluation_seeds
from dynvgd_jax.evaluate import play, videos
from dynvgd_jax.evaluate.play import base_act, steered_act
from dynvgd_jax.evaluate.videos import Recorder, Take, load_encoder, write_videos
from dynvgd_jax.runs.durable import held, new_folder, remove_abandoned, sync
from dynvgd_jax.runs.metrics import EPISODES_FILE, episode_rows
from dynvgd_jax.runs.report import (
    episodes_text,
    evaluation_line,
    print_results,
)
from dynvgd_jax.runs.settings import (
    CONFIG_FILE,
    read_config,
    write_config,
    write_versions,
)
from dynvgd_jax.runs.summary import judged, own_returns, shown, summarise
from dynvgd_jax.runs.terminal import Progress, module, print_next
from dynvgd_jax.steering.base import Metrics

FOLDER = "evaluations"  # in the run's folder, one folder an evaluation inside
# Changed fields that a default folder's name leaves out.
_UNNAMED = ("eval.", "env.num_threads")


class Entry(NamedTuple):
    """One policy to evaluate."""

    name: str  # method and start noise, such as base/randn
    control_steps: int  # of training behind it
    act: ActFn


class Subject(NamedTuple):
    """What is evaluated."""

    config: ConfigDict  # overrides applied
    policy: Policy
    agent: Agent | None  # None where nothing steers
    folder: Path  # for the results, unless another is given


def source_config(source: str) -> ConfigDict:
    """Returns the configuration of what `run_evaluation` takes, before any changes.

    A policy has that of configs/base.py, its own task and method "base".

    Raises:
      UserError: there is no such run, checkpoint or policy.
    """
    if is_policy(source):
        config = load_config("configs/base.py")
        description = load_json(locate(source) / DESCRIPTION)
        config.task, config.method = str(description.get("task")), "base"
        config.base_policy = source
        config.policy_kind = str(description.get("kind", config.policy_kind))
        if judged_by_return(config.task):
            config.reward_offset = 0.0
        return config
    if _holds_only_a_policy(Path(source)):
        raise UserError(
            f"{source} is no training run; give the policy in it: {source}/{POLICY}"
        )
    folder, _ = find_checkpoint(source)
    return read_config(folder)


def _holds_only_a_policy(folder: Path) -> bool:
    """Whether it is the folder of a pre-training."""
    if not (folder / CONFIG_FILE).is_file():
        return False
    return read_config(folder).job != "train" and is_policy(str(folder / POLICY))


def run_evaluation(
    source: str,
    config: ConfigDict,
    changes: dict[str, Any],
    output: Path | None = None,
    make_env: Callable[[int], VectorEnv] | None = None,
    *,
    films: int = 0,
) -> dict[str, list[EpisodeResult]]:
    """Evaluates base and steered policy, writes the files, prints the table.

    Args:
      source: a run's folder (its newest checkpoint), one of its checkpoints, a policy
        folder or `builtin:<task>`.
      config: of `source`, see `source_config`, changes applied.
      changes: those fields of it that differ, by dotted name.
      output: new folder; None chooses one, see docs/deploy.md.
      make_env: number of environments -> environments, where not those of
        `envs.base`.
      films: episodes of base and steered policy to draw, see `videos.write_videos`;
        they change nothing else.

    Returns:
      the episodes of each policy by name, in the order of their seeds.

    Raises:
      UserError: there is no such run, checkpoint or policy, it is of another task, a
        field has no allowed value, the output exists or cannot be written, or films
        are asked for and cannot be drawn here.
    """
    check_fields(config, play.FIELDS | envs_base.field_rules())
    subject = _load(source, config, changes)
    config, policy = subject.config, subject.policy
    target = output or subject.folder
    if target.exists():
        raise UserError(
            f"{target} exists already; give one that does not with --output"
        )
    if make_env is None:
        policy.require_task(config.task)
        make_env = functools.partial(envs_base.make_env, config, policy.normalization)
    with contextlib.ExitStack() as stack:
        if films:  # what is missing is missed now, not after an hour of episodes
            load_encoder()
            of_task = (config, policy.normalization)
            camera = envs_base.make_camera(*of_task, videos.PICTURE_PX)
            stack.enter_context(contextlib.closing(camera))
        metrics = {}  # of the latest decision of the steered policy
        entries = _entries(subject, metrics.update)
        if films:
            entries = _remembering(entries, config)
        found = _evaluate_into(target, entries, subject, make_env)
        print(f"wrote {target / EPISODES_FILE}")
        if films:
            takes = _takes(entries, found, metrics)
            options = {"title": config.task, "count": films}
            try:
                write_videos(target, camera, takes, **options, agent=subject.agent)
            except OSError as error:
                raise UserError(
                    f"cannot write {target / videos.FOLDER}: {error}"
                ) from error
            print(f"wrote {target / videos.FOLDER}")
    print_next(_next(source, subject, changes, target, films))
    return found


def _next(
    source: str,
    subject: Subject,
    changes: dict[str, Any],
    target: Path,
    films: int,
) -> dict[str, Sequence]:
    """What one may type next, by purpose."""
    same = [f"--config.{name}={value}" for name, value in changes.items()]
    output = f"--output={target}-videos"
    commands = {}
    if not films and envs_base.can_draw(subject.config):
        commands["films"] = module("evaluate", source, *same, "--videos=6", output)
    if subject.agent is not None and subject.agent.method.value is not None:
        commands["what the critics know"] = module("audit", source)
    return commands


def _evaluate_into(
    target: Path,
    entries: Sequence[Entry],
    subject: Subject,
    make_env: Callable[[int], VectorEnv],
) -> dict[str, list[EpisodeResult]]:
    """Plays all entries, writes the new folder `target` and prints the table.

    Raises:
      UserError: `target` cannot be written.
    """
    config = subject.config
    # Of this evaluation alone: another one with the same target changes nothing here.
    own = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    found: dict[str, list[EpisodeResult]] = {}
    try:
        # Made before anything is played: nothing must be lost for want of a place.
        abandoned = f"..{glob.escape(target.name)}.{'[0-9a-f]' * 8}.partial"
        remove_abandoned(target.parent, abandoned)
        with new_folder(own) as partial, held(partial) as is_ours:
            if not is_ours:
                raise FileNotFoundError(f"{partial} was deleted by another evaluation")
            env = make_env(min(config.eval.num_envs, config.eval.episodes))
            try:
                subject.policy.require_fit(*env.sizes[:3])
                found = _play(env, entries, config)
            finally:
                env.close()
            write_config(partial, config)
            write_versions(partial)
            rows = [(e.control_steps, e.name, found[e.name]) for e in entries]
            (partial / EPISODES_FILE).write_bytes(episode_rows(rows, header=True))
        own.rename(target)
        sync(target.parent)
    except OSError as error:
        if found:  # a full disk must not lose what was played
            _print_table(entries, found, config)
        kept = f"; the files are in {own}" if own.exists() else ""
        raise UserError(
            f"cannot write {target}: {error}{kept}; give --output"
        ) from error
    # Only now: of many episodes its intervals take long, and may take all memory.
    _print_table(entries, found, config)
    return found


def _remembering(entries: Sequence[Entry], config: ConfigDict) -> list[Entry]:
    """The entries, remembering the episodes of which films can be made."""
    seeds = evaluation_seeds(config.eval.seed, config.eval.episodes)
    first = seeds[: videos.CANDIDATES]
    return [entry._replace(act=Recorder(entry.act, first)) for entry in entries]


def _takes(
    entries: Sequence[Entry], found: dict[str, list[EpisodeResult]], metrics: Metrics
) -> list[Take]:
    """The base policy of the first start noise and the steered one, for films."""
    base, last = entries[0], entries[-1]
    takes = [Take(base.name, found[base.name], base.act)]
    if not last.name.startswith("base/"):
        scale = metrics.get("guide/lambda_mean")
        guide_lambda = None if scale is None else float(scale)
        takes.append(Take(last.name, found[last.name], last.act, guide_lambda))
    return takes


def _load(source: str, config: ConfigDict, changes: dict[str, Any]) -> Subject:
    ending = f"seed{config.eval.seed}{_changes_text(changes)}"
    if is_policy(source):
        check_steering(config)
        policy = load_policy(source)
        policy.require_task(config.task)
        name = source.removeprefix(BUILTIN_PREFIX)
        folder = Path("runs") / f"evaluation-{Path(name).absolute().name}-{ending}"
        return Subject(config, policy, None, folder)
    agent = load_agent(source, changes)
    run, _ = find_checkpoint(source)
    folder = run / FOLDER / f"{agent.env_steps}-{ending}"
    return Subject(agent.config, agent.policy, agent, folder)


def _changes_text(changes: dict[str, Any]) -> str:
    """What tells evaluations of other fields apart, such as `-3fa2b1`, or nothing."""
    named = {n: v for n, v in changes.items() if not n.startswith(_UNNAMED)}
    if not named:
        return ""
    text = json.dumps(named, sort_keys=True, default=str)
    return f"-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def is_policy(source: str) -> bool:
    """Whether `source` is a packaged policy or a policy folder, and no run."""
    return source.startswith(BUILTIN_PREFIX) or (Path(source) / DESCRIPTION).is_file()


def _entries(subject: Subject, on_metrics: Callable[[Metrics], None]) -> list[Entry]:
    """The base policy from each start noise, then the steered one."""
    config, agent = subject.config, subject.agent
    entries = [
        Entry(f"base/{kind}", 0, base_act(config, subject.policy, kind))
        for kind in config.eval.noises
    ]
    if agent is not None and config.method != "base":
        name = f"{config.method}/{config.acting_noise}"
        entries.append(Entry(name, agent.env_steps, steered_act(agent, on_metrics)))
    return entries


def _play(
    env: VectorEnv, entries: Sequence[Entry], config: ConfigDict
) -> dict[str, list[EpisodeResult]]:
    """Plays every policy on the same episodes behind a progress bar."""
    seeds = evaluation_seeds(config.eval.seed, config.eval.episodes)
    found = {}
    with Progress(len(entries) * len(seeds), unit="episodes") as bar:
        for number, entry in enumerate(entries):
            start, done = time.monotonic(), []

            def progress(result, entry=entry, number=number, done=done):
                done.append(result)
                bar.update(
                    number * len(seeds) + len(done),
                    **shown(done, **judged(config)),
                    stage=entry.name,
                )

            options = {"reward_offset": config.reward_offset, "progress": progress}
            found[entry.name] = evaluate(env, entry.act, seeds, **options)
            summary = summarise(entry.control_steps, entry.name, done, **judged(config))
            bar.message(evaluation_line(summary, time.monotonic() - start))
    return found


def _print_table(
    entries: Sequence[Entry],
    found: dict[str, list[EpisodeResult]],
    config: ConfigDict,
) -> None:
    """Prints each policy's success or return, and what steering gains.

    The gain is that on equal episodes.
    """
    print_results(
        [
            summarise(e.control_steps, e.name, found[e.name], **judged(config))
            for e in entries
        ]
    )
    *bases, steered = entries
    if steered.name.startswith("base/"):
        return
    by_return = judged_by_return(config.task)
    for base in bases:
        ours, theirs = (
            own_returns(own, config.reward_offset) if by_return else _success(own)
            for own in (found[steered.name], found[base.name])
        )
        text = episodes_text(ours - theirs)
        what = "return" if by_return else "success (whole chunk)"
        print(
            f"{steered.name} - {base.name}: {text} {what}, paired by "
            "episode, 95 % bootstrap interval"
        )


def _success(results: Sequence[EpisodeResult]) -> np.ndarray:
    return np.array([r.success_chunk for r in results], float)
