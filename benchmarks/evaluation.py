"""How long an evaluation takes, and what it finds, with each engine.

    python -m benchmarks.evaluation --policy=builtin:can --episodes=200
    python -m benchmarks.evaluation --engines=compiled,exact --episodes=400

Evaluates a base policy (DDIM 8, `randn` start noise) on the same episodes with each
engine, in turns of 50 episodes, so that a drifting machine is fair to all. Prints the
seconds, the success with 95 % Wilson intervals, and each engine's share of the last
one's time and its episodes with the last one's outcome.
"""

import argparse
import json
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import sys

import numpy as np

from dynvgd_jax.core.config_file import load_config
from dynvgd_jax.core.jax_start import run_on_devices
from dynvgd_jax.diffusion.policy_files import load_policy
from dynvgd_jax.envs.robosuite.vector import ENGINES, RobosuiteVectorEnv
from dynvgd_jax.envs.rollout import evaluate, evaluation_seeds
from dynvgd_jax.evaluate.play import base_act
from dynvgd_jax.runs.report import success_text

TURN_EPISODES = 50


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", default="builtin:can")
    parser.add_argument("--engines", default="compiled,exact,robosuite")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--num_envs", type=int, default=25)
    parser.add_argument("--json", action="store_true", help="one object per line")
    options = parser.parse_args()
    engines = options.engines.split(",")
    unknown = set(engines) - set(ENGINES)
    if unknown:
        parser.error(f"unknown engines {sorted(unknown)}; known are {ENGINES}")
    policy = load_policy(options.policy)
    act = base_act(load_config("configs/base.py"), policy, "randn")
    seeds = evaluation_seeds(9001, options.episodes)
    turns = np.array_split(seeds, -(-len(seeds) // TURN_EPISODES))
    envs = {
        name: RobosuiteVectorEnv(
            policy.task, options.num_envs, policy.normalization, engine=name
        )
        for name in engines
    }
    for env in envs.values():  # compile
        env.reset([0], [0])
        env.step([0], np.zeros((1, policy.chunk_len, policy.action_dim)))
    act(
        np.zeros((options.num_envs, policy.obs_dim), np.float32),
        np.zeros(options.num_envs, np.uint32),
        np.zeros(options.num_envs, np.int32),
    )
    results, seconds = {name: [] for name in engines}, dict.fromkeys(engines, 0.0)
    for turn in turns:
        for name, env in envs.items():
            begin = time.perf_counter()
            results[name] += evaluate(env, act, turn)
            seconds[name] += time.perf_counter() - begin
    last = engines[-1]
    for name in engines:
        pairs = zip(results[name], results[last], strict=True)
        same = sum(a.success_chunk == b.success_chunk for a, b in pairs)
        wins = sum(r.success_chunk for r in results[name])
        share = seconds[name] / seconds[last]
        row = {
            "task": policy.task,
            "engine": name,
            "episodes": len(seeds),
            "seconds": round(seconds[name], 1),
            f"share of {last}": round(share, 3),
            "success": success_text(wins, len(seeds)),
            f"outcomes as {last}": same,
        }
        text = ", ".join(f"{what} {value}" for what, value in row.items())
        print(json.dumps(row) if options.json else text, flush=True)


if __name__ == "__main__":
    sys.exit(run_on_devices("evaluation.py", main))
