"""Scalars of a run on their way from the devices to TensorBoard; what is not finite."""

from collections.abc import Sequence

import jax
import numpy as np

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.types import EpisodeResult
from dynvgd_jax.envs.robosuite.tasks import find_task
from dynvgd_jax.runs.summary import judged, measures, summarise
from dynvgd_jax.training import processes
from dynvgd_jax.training.divergence import (
    ANY_VALUE,
    ValueRange,
    diagnose,
    range_excess,
    range_warning,
    value_range,
)
from dynvgd_jax.training.state import RunState, SeedState

ADVICE = "the last checkpoint is kept; lower learning_rate or guidance.scale"


def fetch(run: RunState) -> None:
    """Fetches all pending scalars at once and gives each seed its own.

    Those of acting are means over the processes, which act for others.
    """
    fetched = jax.device_get(run.pending)
    if processes.count() > 1:
        acting = [
            {k: v.tolist() for k, v in scalars.items() if k.startswith("guide/")}
            for _, scalars in fetched
        ]
        everyones = zip(*processes.gather_objects(acting), strict=True)
        fetched = [
            (env_steps, scalars | _mean_of_each(same))
            for (env_steps, scalars), same in zip(fetched, everyones, strict=True)
        ]
    keep(run, fetched)


def keep(run: RunState, fetched: list) -> None:
    """Hands fetched scalars over to the seeds."""
    placement = run.job.placement
    for env_steps, scalars in fetched:
        values = {n: placement.collect(v) for n, v in scalars.items()}
        for i, seed in enumerate(run.seeds):
            seed.pending.append((env_steps, {n: v[i] for n, v in values.items()}))
    run.pending = []


def log_interval(run: RunState) -> None:
    """Writes the means of the pending scalars, recent episodes, and counts."""
    fetch(run)
    config, env_steps = run.job.config, run.env_steps
    updates = config.utd if run.job.method.update is not None else 0
    counts = {
        "train/num_updates": run.num_updates(),
        "train/updates_per_control_step": updates / run.job.vector_step,
    }
    counts |= run.clocks.report(env_steps)
    sizes = run.job.eval_env.sizes
    allowed = value_range(config, sizes.chunk_len, sizes.max_episode_env_steps)
    # only of robosuite's tasks is known what a control step can earn
    if run.job.method.soft_values or find_task(config.task) is None:
        allowed = ANY_VALUE
    for seed in run.seeds:
        values = _log_seed(seed, env_steps, counts, allowed)
        warning = range_warning(values, allowed)
        if warning is not None and not seed.out_of_range:  # once, until it is back
            label = f"seed {seed.seed}, " if len(run.seeds) > 1 else ""
            text = f"warning: {label}at {env_steps:,} control steps {warning}"
            run.job.progress.message(text)
        seed.out_of_range = warning is not None


def _log_seed(
    seed: SeedState, env_steps: int, counts: dict[str, float], allowed: ValueRange
) -> dict[str, float]:
    """Writes one seed's interval; returns the means of its training calls."""
    refuse_divergence(seed)
    fetched = [values for _, values in seed.pending]
    seed.history.extend(seed.pending)
    seed.pending = []
    seed.share_episodes()
    names = fetched[0].keys() if fetched else ()
    means = {n: float(np.mean([f[n] for f in fetched])) for n in names}
    values = means | counts
    if "train/critic_loss" in means:
        values["train/q_range_excess"] = range_excess(means, allowed)
    if seed.recent:
        values |= {
            "train/success_rate": seed.success_rate(),
            "train/ep_rew_mean": np.mean([r.episode_return for r in seed.recent]),
            "train/ep_len_mean": np.mean([r.length for r in seed.recent]),
            "train/faults": sum(r.fault for r in seed.recent),
        }
    if seed.log is not None:
        seed.log.scalars(env_steps, values)
    return means


def record_evaluation(
    seed: SeedState,
    env_steps: int,
    name: str,
    results: Sequence[EpisodeResult],
    acted_q: Sequence[float] = (),
) -> None:
    """Writes an evaluation to eval.csv and TensorBoard, and keeps its averages.

    Args:
      seed: whose it is.
      env_steps: control steps of training before it.
      name: of the policy, such as `base/randn`.
      results: its episodes.
      acted_q: what the critics said of each chunk that acted; none without critics.
    """
    summary = summarise(env_steps, name, results, **judged(seed.config))
    seed.summaries.append(summary)
    if seed.log is None:
        return
    seed.log.episodes(env_steps, name, results)
    steered = name.startswith(f"{seed.config.method}/") and not name.startswith("base/")
    prefix = "eval" if steered else f"eval_{name}"
    rates = measures(prefix, summary)
    if steered:  # the base policy's as lines beside the curve
        bases = (s for s in seed.summaries if s.policy.startswith("base/"))
        for base in bases:
            rates |= measures(f"eval_{base.policy}", base)
    seed.log.scalars(
        env_steps,
        rates
        | {
            f"{prefix}/success_any_rate": summary.success_any / summary.episodes,
            f"{prefix}/reward": summary.mean_return,
            f"{prefix}/timesteps": summary.mean_length,
            f"{prefix}/faults": summary.faults,
        },
    )
    for quantity, values in (
        ("episode_length", [r.length for r in results]),
        ("return", [r.episode_return for r in results]),
        ("q", acted_q),
    ):
        if len(values):
            seed.log.histogram(env_steps, f"{prefix}/{quantity}", values)


def finite_chunks(run: RunState, chunks: jax.Array) -> np.ndarray:
    """Returns action chunks on the host; UserError where one is not finite."""
    chunks = np.asarray(chunks)
    if not np.isfinite(chunks).all():
        keep(run, jax.device_get(run.pending))
        for seed in run.seeds:
            refuse_divergence(seed)
        raise UserError(
            f"the actions are not finite at {run.env_steps:,} control steps, "
            f"though the last training calls were: the policy's weights, its "
            f"normalization.npz or the critics are; {ADVICE}"
        )
    return chunks


def refuse_divergence(seed: SeedState) -> None:
    """Raises UserError where a scalar of the training calls is not finite."""
    diagnosis = diagnose([*seed.history, *seed.pending])
    if diagnosis is not None:
        raise UserError(f"training diverged: {diagnosis}; {ADVICE}")


def _mean_of_each(everyones: Sequence[dict]) -> dict[str, np.ndarray]:
    """The mean over processes of each scalar, one value or one a seed."""
    names = everyones[0].keys()
    return {
        n: np.mean([own[n] for own in everyones], axis=0, dtype=np.float32)
        for n in names
    }
