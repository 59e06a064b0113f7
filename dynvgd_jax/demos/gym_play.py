"""Whole episodes of gymnasium's environments under an agent, recorded in raw units."""

from collections.abc import Sequence

import numpy as np

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.scores import judged_by_return
from dynvgd_jax.demos.files import DemoEpisode
from dynvgd_jax.demos.gym_agent import Agent
from dynvgd_jax.envs.base import VectorEnv, check_task


def check_gym_task(field: str, task: str) -> None:
    """The rule of a task for which agents are trained."""
    check_task(field, task)
    if not judged_by_return(task):
        raise UserError(
            f"config.{field}: found {task!r}, expected a task of gymnasium, such as "
            "hopper or gym:Ant-v5; robosuite's have scripted operators"
        )


def play(
    env: VectorEnv, agent: Agent, seeds: Sequence[int], operator: str = ""
) -> list[DemoEpisode]:
    """Returns an episode for each seed, to its end or the time limit.

    They depend on their seeds and the agent; how many run at once changes how products
    are rounded, which MuJoCo amplifies.

    Args:
      env: a `GymVectorEnv` without a scale; plays `num_envs` at a time.
      agent: who acts, its actions drawn.
      seeds: of the resets and of the draws.
      operator: the episodes' own word on who acted.
    """
    episodes = []
    for start in range(0, len(seeds), env.num_envs):
        wave = seeds[start : start + env.num_envs]
        episodes += _play_wave(env, agent, wave, operator)
    return episodes


def _play_wave(env, agent, wave, operator) -> list[DemoEpisode]:
    limit, action_dim = env.sizes.max_episode_env_steps, env.sizes.action_dim
    draws = np.stack(
        [np.random.default_rng(s).normal(size=(limit, action_dim)) for s in wave]
    )
    running = np.arange(len(wave))
    env.reset(running, np.array(wave))
    records = [([], [], []) for _ in wave]  # observations, actions, rewards
    success = np.zeros(len(wave), bool)
    for step in range(limit):
        obs = env.raw_obs[running]
        actions = agent.act(obs, draws[running, step]).astype(np.float32)
        result = env.step(running, actions[:, None])
        for row in np.flatnonzero(~result.fault):
            index = running[row]
            parts = (obs[row], actions[row], result.reward[row, 0])
            for record, value in zip(records[index], parts, strict=True):
                record.append(value)
            success[index] = result.success[row, 0]
        running = running[~result.ended]
        if not len(running):
            break
    return [
        DemoEpisode(
            *(np.array(record, np.float32) for record in records[index]),
            last_obs=env.raw_obs[index].astype(np.float32),
            operator=operator,
            seed=int(seed),
            success=bool(success[index]),
        )
        for index, seed in enumerate(wave)
    ]
