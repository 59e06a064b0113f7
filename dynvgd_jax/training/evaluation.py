"""Evaluations of a run: the base policy before, the steered one during training."""

import time

import jax
import numpy as np

from dynvgd_jax.core.types import EpisodeResult
from dynvgd_jax.envs.rollout import ActFn, evaluate
from dynvgd_jax.evaluate.play import evaluation_inputs
from dynvgd_jax.runs.report import evaluation_line
from dynvgd_jax.runs.summary import judged, shown, summarise
from dynvgd_jax.training import processes
from dynvgd_jax.training.reporting import finite_chunks, record_evaluation
from dynvgd_jax.training.saving import has_checkpoint, save
from dynvgd_jax.training.state import RunState, StoppedError


def evaluate_base(run: RunState) -> None:
    """Evaluates the unguided policy once per start noise, before any training."""
    if run.env_steps > 0:
        return
    config, programs = run.job.config, run.job.programs
    key = jax.random.key(config.eval.seed)
    done = {summary.policy for summary in run.seeds[0].summaries}
    for kind in config.eval.noises:
        name = f"base/{kind}"
        if name in done:
            continue

        def act(obs, seeds, chunk_index, kind=kind):
            return programs.decode(kind, obs, key, seeds, chunk_index)

        results = play(run, name, "", act)
        for seed in run.seeds:
            record_evaluation(seed, run.env_steps, name, results)
        save(run)


def evaluate_steered(run: RunState) -> None:
    """Evaluates each seed's policy with acting's own start noise."""
    config, programs = run.job.config, run.job.programs
    key = jax.random.key(config.eval.seed)
    name = f"{config.method}/{config.acting_noise}"
    found, everyones_q = [], []
    for place_of_seed, seed in enumerate(run.seeds):
        learner = run.job.placement.take(run.learner, place_of_seed)

        acted_q = []

        def act(obs, seeds, chunk_index, learner=learner, acted_q=acted_q):
            where = (obs, key, seeds, chunk_index)
            inputs = evaluation_inputs(*where, run.env_steps)
            chunk = programs.act_one(learner, inputs).chunk
            if programs.value is not None:
                q = programs.value(learner, obs, chunk).combined
                acted_q.append((q, seeds.copy(), chunk_index.copy()))
            return chunk

        label = f"seed {seed.seed}, " if len(run.seeds) > 1 else ""
        found.append(play(run, name, label, act))
        everyones_q.append(_gather_q(run, acted_q, found[-1]))
    for seed, results, q in zip(run.seeds, found, everyones_q, strict=True):
        record_evaluation(seed, run.env_steps, name, results, q)
    run.to_evaluate = False
    if has_checkpoint(run):
        save(run)  # so that a resumed run does not repeat it


def _gather_q(
    run: RunState,
    decided: list[tuple[jax.Array, np.ndarray, np.ndarray]],
    results: list[EpisodeResult],
) -> list[float]:
    """Q of the chunks that acted, in all processes; fetched only now.

    Of ended episodes, and of rows that fill a batch, more is decided than acts.
    """
    chunk_len = run.job.policy.chunk_len
    chunks = {int(r.seed): -(-int(r.length) // chunk_len) for r in results}
    own = {}
    for q, seeds, chunk_index in jax.device_get(decided):
        rows = zip(map(int, seeds), map(int, chunk_index), map(float, q), strict=True)
        for seed, chunk, value in rows:
            if chunk < chunks[seed]:
                own[seed, chunk] = value
    parts = processes.gather_objects(list(own.values()))
    return [value for part in parts for value in part]


def play(run: RunState, name: str, label: str, act: ActFn) -> list[EpisodeResult]:
    """Returns the evaluation's episodes; every process plays its share.

    Args:
      run: whose evaluation it is.
      name: of the policy, such as `base/randn`.
      label: in front of it where there are several, such as `seed 3, `.
      act: the policy.
    """
    job, start = run.job, time.monotonic()
    own = job.eval_seeds[processes.index() :: processes.count()]
    done: list[EpisodeResult] = []

    def act_unless_stopped(obs, seeds, chunk_index):
        # Several processes are at different chunks; they stop after it.
        if processes.count() == 1 and job.stop():
            raise StoppedError
        return finite_chunks(run, act(obs, seeds, chunk_index))

    def progress(result):
        done.append(result)
        part.update(len(done), **shown(done, **judged(job.config)))

    showing = job.progress.part(f"evaluating {label}{name}", len(own))
    with run.clocks.measure("eval"), showing as part:
        results = evaluate(
            job.eval_env,
            act_unless_stopped,
            own,
            reward_offset=job.config.reward_offset,
            progress=progress,
        )
        parts = processes.gather_objects([list(r) for r in results])
    everyones = [
        EpisodeResult(*parts[i % len(parts)][i // len(parts)])
        for i in range(len(job.eval_seeds))
    ]
    summary = summarise(run.env_steps, name, everyones, **judged(job.config))
    seconds = time.monotonic() - start
    job.progress.message(evaluation_line(summary, seconds, label))
    return everyones
