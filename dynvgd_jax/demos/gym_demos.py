"""Demonstrations of partly trained agents for Gymnasium tasks, as DPPO's files."""

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from rich.table import Table

from dynvgd_jax.core.command_line import expand
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import check_fields, count, number
from dynvgd_jax.core.scores import normalised_score, reference
from dynvgd_jax.demos.collect import plan_episodes
from dynvgd_jax.demos.files import DemoEpisode, write_dppo
from dynvgd_jax.demos.gym_agent import load_agent
from dynvgd_jax.demos.gym_play import check_gym_task, play
from dynvgd_jax.demos.meaning import GYM
from dynvgd_jax.envs import base as envs
from dynvgd_jax.envs.gym.tasks import env_id
from dynvgd_jax.runs.terminal import Progress, job, print_next, print_table

FIELDS = {
    "task": check_gym_task,
    "seed": number(0, 2**31 - 1),
    "num_episodes": count(1),
    "num_envs": number(1, 4096),
    "env.num_threads": number(0, 4096),
}


def run(config: ConfigDict, workdir: str | Path) -> None:
    """Collects as `config` says (configs/hopper_demos.py) and writes two files.

    `workdir` receives DPPO's `train.npz` and `normalization.npz`; a table with return
    and length per agent is printed.

    Raises:
      UserError: bad fields, an agent is missing, or of another environment.
    """
    check_fields(config, FIELDS)
    plans = plan_episodes(config.operators.to_dict(), config.num_episodes, config.seed)
    folder = expand(config.agents)
    agents = {n: load_agent(folder / f"{n}.npz") for n in config.operators}
    env = envs.make_env(config, None, min(config.num_envs, config.num_episodes))
    episodes: list[DemoEpisode] = []
    try:
        for name, agent in agents.items():
            found = (len(agent.obs_mean), len(agent.log_std))
            if found != env.sizes[:2]:
                raise UserError(
                    f"{folder}/{name}.npz is of another environment: sizes of "
                    f"observation and action {found}, task {config.task} has "
                    f"{env.sizes[:2]}"
                )
        with Progress(config.num_episodes, unit="episodes") as bar:
            for name, agent in agents.items():
                seeds = [int(p.reset_seed) for p in plans if p.operator == name]
                for start in range(0, len(seeds), env.num_envs):
                    wave = seeds[start : start + env.num_envs]
                    episodes += play(env, agent, wave, name)
                    bar.update(len(episodes), mean_return=np.mean(_returns(episodes)))
    finally:
        env.close()
    order = {int(plan.reset_seed): i for i, plan in enumerate(plans)}
    episodes.sort(key=lambda episode: order[episode.seed])
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    write_dppo(workdir, episodes, env_args=env_args(config.task))
    print_table(summary(config.task, episodes))
    print(f"wrote {workdir}: train.npz, normalization.npz")
    data = f"--config.dataset={workdir / 'train.npz'}"
    print_next(job(config.task, "pretrain", data))


def env_args(task: str) -> dict[str, Any]:
    """Robomimic's description of the environment that the demonstrations are from."""
    return {
        "env_name": env_id(task),
        "type": GYM,
        "env_version": metadata.version("gymnasium"),
        "env_kwargs": {},
    }


def summary(task: str, episodes: Sequence[DemoEpisode]) -> Table:
    """Mean return, D4RL's score and length in control steps per agent."""
    table = Table("agent", "episodes", "return", "normalised score", "control steps")
    for name in [*sorted({e.operator for e in episodes}), "all"]:
        own = [e for e in episodes if name in (e.operator, "all")]
        mean = float(np.mean(_returns(own)))
        score = (
            "-" if reference(task) is None else f"{normalised_score(task, mean):.1f}"
        )
        length = np.mean([len(e.actions) for e in own])
        table.add_row(name, str(len(own)), f"{mean:.1f}", score, f"{length:.0f}")
    return table


def _returns(episodes: Sequence[DemoEpisode]) -> list[float]:
    return [float(e.rewards.sum(dtype=np.float64)) for e in episodes]
