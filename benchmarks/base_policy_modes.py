"""How good and how multi-modal a base policy is.

  python -m benchmarks.base_policy_modes --policy=builtin:can

Prints, with 95 % Wilson intervals and for DDIM 8:
- success with the start noises `randn` and `tanh_randn` (400 episodes each);
- success of 64 fixed start noises, each used for every chunk of 12 episodes: their
  mean, and the best of them once more on 100 fresh episodes (a best of many flatters);
- the spread of the chunks that different noises decode to in one and the same state.
"""

import argparse
import functools
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

from dynvgd_jax.core.jax_start import run_on_devices
from dynvgd_jax.diffusion.policy_files import load_policy
from dynvgd_jax.envs.robosuite.vector import RobosuiteVectorEnv
from dynvgd_jax.envs.rollout import evaluate, evaluation_seeds
from dynvgd_jax.runs.report import success_text
from dynvgd_jax.steering.noise import start_noise

DDIM_STEPS = 8
# Seeds of lists of episodes; training and its evaluation use 0 and up.
RATE_SEED, SEARCH_SEED, FRESH_SEED = 9001, 9002, 9003


def report(name, results):
    """Prints one line; returns the success rate (whole chunk)."""
    wins = sum(r.success_chunk for r in results)
    some = sum(r.success_any for r in results)
    n = len(results)
    print(
        f"{name}: success (whole chunk) {success_text(wins, n)}, "
        f"(any step) {success_text(some, n)}, {n} episodes",
        flush=True,
    )
    return wins / n


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", default="builtin:can")
    parser.add_argument("--episodes", type=int, default=400, help="per start noise")
    parser.add_argument("--noises", type=int, default=64, help="fixed noises; 0: none")
    parser.add_argument("--search_episodes", type=int, default=12, help="per noise")
    parser.add_argument("--fresh_episodes", type=int, default=100)
    options = parser.parse_args()
    policy = load_policy(options.policy)
    shape = (policy.chunk_len, policy.action_dim)
    num_envs = max(options.search_episodes, 20)
    env = RobosuiteVectorEnv(policy.task, num_envs, policy.normalization)
    key = jax.random.key(0)
    states = []

    def draw(kind, obs, seeds, chunk_index):
        if chunk_index[0] % 8 == 0 and len(states) < 40:
            states.append(obs[:8].copy())
        noise = start_noise(
            kind, key, jnp.asarray(seeds), jnp.asarray(chunk_index), shape
        )
        return policy.sample(obs, noise, DDIM_STEPS)

    def fixed(noise, obs, seeds, chunk_index):
        return policy.sample(
            obs, np.broadcast_to(noise, (len(obs), *shape)), DDIM_STEPS
        )

    for kind in ("randn", "tanh_randn"):
        seeds = evaluation_seeds(RATE_SEED, options.episodes)
        report(kind, evaluate(env, functools.partial(draw, kind), seeds))

    noises = np.random.default_rng(0).normal(size=(options.noises, *shape))
    seeds = evaluation_seeds(SEARCH_SEED, options.search_episodes)
    rates = [
        np.mean(
            [r.success_chunk for r in evaluate(env, functools.partial(fixed, n), seeds)]
        )
        for n in track(noises, "fixed noises", disable=not sys.stderr.isatty())
    ]
    if rates:
        quartiles = ", ".join(
            f"{q:.2f}" for q in np.quantile(rates, (0, 0.25, 0.5, 0.75, 1))
        )
        mean = np.mean(rates)
        print(f"{len(rates)} fixed noises: mean {mean:.3f}; quartiles {quartiles}")
        best = functools.partial(fixed, noises[int(np.argmax(rates))])
        seeds = evaluation_seeds(FRESH_SEED, options.fresh_episodes)
        report("best fixed noise, fresh episodes", evaluate(env, best, seeds))

    obs = np.concatenate(states)
    many = np.random.default_rng(1).normal(size=(64, *shape)).astype(np.float32)
    chunks = np.stack(
        [policy.sample(o[None].repeat(64, 0), many, DDIM_STEPS) for o in obs]
    )
    spread = chunks.std(axis=1).mean(axis=(0, 1))
    print(
        f"standard deviation of decoded actions over 64 noises, mean of {len(obs)} "
        "states, by action dimension (normalised, range -1 to 1): "
        + " ".join(f"{s:.2f}" for s in spread)
    )
    env.close()


if __name__ == "__main__":
    sys.exit(run_on_devices("base_policy_modes.py", main))
