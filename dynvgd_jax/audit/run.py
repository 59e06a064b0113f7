"""One audit from a saved run to its page: load, play, measure, write."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dynvgd_jax.agent import CHECKPOINTS, Agent, load_agent
from dynvgd_jax.audit import branch
from dynvgd_jax.audit.branch import policy_act
from dynvgd_jax.audit.files import write_files
from dynvgd_jax.audit.measure import measure
from dynvgd_jax.audit.records import Plan, Played, Subject
from dynvgd_jax.audit.subject import make_subject
from dynvgd_jax.audit.tables import print_tables
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.envs import base as envs_base
from dynvgd_jax.envs.base import VectorEnv
from dynvgd_jax.runs.durable import new_folder, refuse_existing
from dynvgd_jax.runs.settings import versions
from dynvgd_jax.runs.terminal import Progress, held_out, print_next
from dynvgd_jax.steering.noise import START_NOISES

FOLDER = "audit"  # in the run's folder, one folder a checkpoint inside


def run_audit(
    folder: Path,
    *,
    states: int,
    chunks: int,
    repeats: int,
    lengths: tuple[float, ...],
    seed: int = 0,
    policy: str = "steered",
    noise: str | None = None,
    num_envs: int = 16,
    num_threads: int = 0,
    output: str | None = None,
    make_env: Callable[[int], VectorEnv] | None = None,
) -> dict[str, Any]:
    """Runs one audit, writes its files, prints its tables and returns its findings.

    Args:
      folder: of a run (its newest checkpoint) or of one of its checkpoints.
      states: at least 2, one from each of as many episodes.
      chunks: at least 2, drawn per state.
      repeats: at least 2, continuations per first chunk.
      lengths: by which chunks are moved, norms in normalised action units.
      seed: of episodes and all noise.
      policy: "steered" or "base", which gives the states and continues.
      noise: start noise of every decoded chunk; None is the run's acting noise.
      num_envs: environments side by side.
      num_threads: that step them; 0 is one per usable core.
      output: new folder; None is `<run>/audit/<control steps>`.
      make_env: number of environments -> environments, where not those of
        `envs.base`.

    Raises:
      UserError: there is no such run, its critics are untrained, the output exists or
        cannot be written, or the policy does not fit the environments.
    """
    if noise and noise not in START_NOISES:
        raise UserError(
            f"--noise: found {noise!r}, expected one of {', '.join(START_NOISES)}"
        )
    agent = load_agent(folder, {"env.num_threads": num_threads})
    config = agent.config
    run = folder.parent.parent if folder.parent.name == CHECKPOINTS else folder
    target = Path(output or run / FOLDER / str(agent.env_steps))
    refuse_existing(target)
    noise = _start_noise(noise, agent)
    subject = make_subject(agent, noise, seed)
    how = (config.gamma, config.reward_offset, config.end_at_success)
    how += (config.bootstrap_at_time_limit,)
    plan = Plan(states, chunks, repeats, lengths, seed, *how)
    about = _about(run.name, agent.env_steps, policy, noise, plan)
    if make_env is None:
        agent.policy.require_task(config.task)
        make_env = functools.partial(
            envs_base.make_env, config, agent.policy.normalization
        )
    try:
        # Made before anything is played: nothing must be lost for want of a place.
        with new_folder(target) as partial:
            env = make_env(num_envs)
            try:
                envs_base.require_saving(env)
                agent.policy.require_fit(*env.sizes[:3])
                played = _play(env, subject, plan, policy)
            finally:
                env.close()
            td_error = float(agent.learner.td_error)
            found = measure(plan, played.first, played.outcomes, td_error)
            print_tables(found)  # before a disk that is full by now can lose them
            write_files(partial, about, played, found)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error}; give --output") from error
    print(f"wrote {target}")
    print_next({"held-out episodes": held_out(folder, config.eval.seed)})
    return found


def _start_noise(given: str | None, agent: Agent) -> str:
    """The start noise to decode from; UserError for one that the method has not."""
    if agent.method.own_noise:  # what it takes is its actor's draw
        if given not in (None, "", "randn"):
            raise UserError(
                f"--noise: found {given!r}, but method {agent.config.method!r} learned "
                "its start noise; leave it out"
            )
        return "randn"
    return given or agent.config.acting_noise


def _about(
    run_name: str, env_steps: int, policy: str, noise: str, plan: Plan
) -> dict[str, Any]:
    """What was audited, for the files and their title."""
    size = f"{plan.states} states x {plan.chunks} chunks x {plan.repeats} repeats"
    return {
        "title": f"{run_name} at {env_steps:,} control steps; {policy} policy from "
        f"{noise} noise; {size}",
        "control_steps": env_steps,
        "policy": policy,
        "noise": noise,
        "plan": plan._asdict(),
        "versions": versions(),
    }


def _play(env: VectorEnv, subject: Subject, plan: Plan, policy: str) -> Played:
    """Plays the whole plan behind a progress bar."""
    decode = subject.steer if policy == "steered" else subject.decode
    with Progress(plan.rollouts(), unit="rollouts") as bar:
        act = policy_act(decode, subject.noise, branch.EPISODE_NOISE)
        with bar.part("states", plan.states) as part:
            starts = branch.collect_states(env, act, plan, part.update)
        first = branch.draw_first_chunks(subject, starts, plan, env.num_envs)
        act = policy_act(decode, subject.noise, branch.FUTURE_NOISE)
        bar.restart_rate()
        outcomes = branch.play(env, act, starts, first, plan, bar.update)
    return Played(plan, starts, first, outcomes)
