"""The training loop of any method: act, step, learn, evaluate, write down."""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from dynvgd_jax.core.types import Transition
from dynvgd_jax.envs.base import can_draw
from dynvgd_jax.runs.clocks import Clocks, Due
from dynvgd_jax.runs.report import print_results, print_seed_means
from dynvgd_jax.runs.summary import Summary
from dynvgd_jax.runs.terminal import curves, held_out, module, print_next
from dynvgd_jax.steering.base import Decision
from dynvgd_jax.training import processes
from dynvgd_jax.training.evaluation import evaluate_base, evaluate_steered
from dynvgd_jax.training.proposing import acting_inputs, with_proposals
from dynvgd_jax.training.reporting import finite_chunks, log_interval
from dynvgd_jax.training.saving import forget_after, restore, save
from dynvgd_jax.training.setup import MakeEnv, begin, open_run
from dynvgd_jax.training.state import ACTIVITIES, RunState, StoppedError

# Training calls whose scalars may wait for the log; a checkpoint holds those.
MOST_PENDING = 1_000


def train(
    config: ConfigDict,
    workdir: str | Path,
    make_env: MakeEnv | None = None,
    *,
    resume: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> dict[int, list[Summary]]:
    """Runs one training job and returns each seed's evaluations, in order.

    Args:
      config: as `configs/base.py` describes, checked.
      workdir: new folder for everything that the run writes; with several seeds each
        has a folder of its own inside.
      resume: go on with the run in `workdir` from its newest sound checkpoint, or from
        its beginning where it wrote none.
      make_env: number of environments -> environments, where they are not the task's.
      stop: asked often; once it says yes the run saves a checkpoint and ends. An
        evaluation under way is thrown away, and repeated by a resumed run.

    Raises:
      UserError: the policy does not fit the task, the folder is taken, the disk does
        not take the first or the last checkpoint, or a value is no longer finite; with
        `resume`, there is no checkpoint, or the configuration would change what the
        run means.
      StuckError: an environment hangs.
    """
    with contextlib.ExitStack() as held:
        run = open_run(config, Path(workdir), make_env, resume, stop, held)
        finished = _run(run)
    summaries = {seed.seed: seed.summaries for seed in run.seeds}
    if finished and processes.is_first():
        if len(summaries) == 1:
            print_results(run.seeds[0].summaries)
        else:
            print_seed_means(summaries)
        one_seed = run.seeds[0].workdir
        commands = {
            "curves": curves(Path(workdir)),
            "held-out episodes": held_out(one_seed, config.eval.seed),
        }
        if can_draw(config):
            commands["films"] = module("evaluate", one_seed, "--videos=6")
        commands["one page"] = module("report", workdir, "--output=report")
        print_next(commands)
    return summaries


def _run(run: RunState) -> bool:
    """Does what is left to do; returns False where the run was asked to stop."""
    try:
        begin(run)
        if run.job.saved is not None:
            restore(run)
        else:
            forget_after(run, -1)
            save(run, required=True)  # from here on the run can be resumed
        evaluate_base(run)
        if run.job.method.trains:
            _learn(run)
        run.finished = True
        save(run, required=True)
        return True
    except StoppedError:
        save(run, required=True)
        run.job.progress.message(
            f"stopped at {run.env_steps:,} control steps, everything is saved; "
            "the same command with --resume goes on",
            always=True,
        )
        return False


def _learn(run: RunState) -> None:
    """Trains until the budget of control steps is spent."""
    config = run.job.config
    due_log = Due(config.log.every_env_steps, run.env_steps)
    due_evaluation = Due(config.eval.every_env_steps, run.env_steps)
    due_checkpoint = Due(config.checkpoint.every_env_steps, run.env_steps)
    run.clocks = Clocks(
        ACTIVITIES,
        first_step=run.env_steps,
        round_steps=run.job.vector_step,
        apart=("eval",),
    )
    learning = run.num_updates() > 0 or run.env_steps > _explored_env_steps(run)
    while True:
        if run.to_evaluate:
            evaluate_steered(run)
        if run.env_steps >= config.total_env_steps:
            return
        if processes.any_of(run.job.stop()):
            raise StoppedError
        first_call = False
        if run.env_steps < config.first_rollout_env_steps:
            _explore(run)
        else:
            first_call, learning = not learning, True
            if first_call:
                run.job.progress.restart_rate()
            _act_and_update(run)
        run.job.progress.update(
            run.env_steps,
            **run.recent_measure(),
            stage="learning" if learning else "first rollouts",
        )
        last = run.env_steps >= config.total_env_steps
        # The first training call is logged at once: a slow run shows early whether its
        # numbers make sense.
        full = len(run.pending) + len(run.seeds[0].pending) >= MOST_PENDING
        if due_log(run.env_steps) or first_call or last or full:
            log_interval(run)
        run.to_evaluate = (due_evaluation(run.env_steps) and learning) or last
        retry = run.retry_at is not None and time.monotonic() >= run.retry_at
        retry = processes.any_of(retry)
        # Before the evaluation, which may take long.
        if due_checkpoint(run.env_steps) or first_call or last or retry:
            save(run)


def _explored_env_steps(run: RunState) -> int:
    """Control steps behind the first rollouts, whole vector steps."""
    step = run.job.vector_step
    return -(-run.job.config.first_rollout_env_steps // step) * step


def _explore(run: RunState) -> None:
    """One vector step of the first rollouts, before anything is learned."""
    with run.clocks.measure("act"):
        decisions = [
            run.job.programs.explore(seed.act_inputs(run.env_steps))
            for seed in run.seeds
        ]
        decisions = [
            (finite_chunks(run, decision.chunk), jax.device_get(decision.extras))
            for decision in decisions
        ]
    _start_rollouts(run, decisions)
    _finish_rollouts(run)


def _act_and_update(run: RunState) -> None:
    """One vector step of the steered policy and one training call.

    As published the training call follows the rollouts and may draw their transitions.
    With `overlap` it runs beside them and may not.
    """
    with run.clocks.measure("act"):
        decision = run.job.programs.act(run.learner, acting_inputs(run))
        decisions = _of_each_seed(run, decision)
    _start_rollouts(run, decisions)
    if run.job.config.overlap:
        with run.clocks.measure("update"):
            scalars = _update(run, run.env_steps + run.job.vector_step)
        _finish_rollouts(run, beside=True)
    else:
        _finish_rollouts(run)
        with run.clocks.measure("update"):
            scalars = _update(run, run.env_steps)
            jax.block_until_ready(run.learner)
    run.pending.append((run.env_steps, decision.metrics | scalars))


def _of_each_seed(run: RunState, decision: Decision) -> list[tuple]:
    """Each seed's chunks and extras, on the host."""
    collect = run.job.placement.collect
    chunks = collect(finite_chunks(run, decision.chunk))
    extras = jax.tree.map(collect, jax.device_get(decision.extras))
    return [
        (chunk, {name: leaf[i] for name, leaf in extras.items()})
        for i, chunk in enumerate(chunks)
    ]


def _update(run: RunState, env_steps: int) -> dict[str, jax.Array]:
    """Starts the training call that belongs to `env_steps` on the devices."""
    if run.job.method.update is None:
        return {}
    keys = [seed.update_key(env_steps) for seed in run.seeds]
    run.learner, scalars = run.job.programs.update(
        run.learner, run.replay, keys, env_steps
    )
    return scalars


def _start_rollouts(run: RunState, decisions: Sequence[tuple]) -> None:
    for seed, (chunks, extras) in zip(run.seeds, decisions, strict=True):
        seed.collector.step_async(chunks, extras)


def _finish_rollouts(run: RunState, beside: bool = False) -> None:
    """Waits for the environments and stores what they did.

    With a training call `beside` them, what is left of that counts as its own time:
    what follows needs the devices too.
    """
    with run.clocks.measure("rollout"):
        stepped = [seed.finish_step() for seed in run.seeds]
    if beside:
        with run.clocks.measure("update"):
            jax.block_until_ready(run.learner)
    run.env_steps += run.job.vector_step
    if run.job.method.propose is not None:
        with run.clocks.measure("propose"):
            stepped = with_proposals(run, stepped)
    if run.replay is not None:
        fresh: list[Transition] = [transition for transition, _ in stepped]
        run.replay.store(fresh)
        for seed, new in zip(run.seeds, fresh, strict=True):
            seed.fresh.append(new)
    if run.job.method.observe is not None:
        ends = [processes.concatenate(ends) for _, ends in stepped]
        run.learner = run.job.programs.observe(run.learner, ends)
