"""Steps environments for a long time and watches memory and threads.

    python -m benchmarks.rollouts_soak --task=can --env_steps=2000000

Plays random episodes through the vector environment, as training does, resets
included. After a warm-up of a tenth it prints resident memory and threads at ten
points, and fails where memory grew by more than 20 MB or a thread was left over.
"""

import argparse
import sys
import threading

import numpy as np
import psutil
from rich.progress import track

from dynvgd_jax.core.command_line import whole_number
from dynvgd_jax.envs.robosuite.vector import RobosuiteVectorEnv
from dynvgd_jax.envs.rollout import max_chunks

MOST_GROWTH_MB = 20.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="can")
    parser.add_argument("--env_steps", type=whole_number, default=2_000_000)
    parser.add_argument("--num_envs", type=int, default=8)
    parser.add_argument("--engine", default="compiled")
    options = parser.parse_args()
    process, rng = psutil.Process(), np.random.default_rng(0)
    threads_before = threading.active_count()
    env = RobosuiteVectorEnv(
        options.task, options.num_envs, None, engine=options.engine
    )
    everyone, sizes = np.arange(env.num_envs), env.sizes
    shape = (sizes.chunk_len, sizes.action_dim)
    per_step = env.num_envs * sizes.chunk_len
    total = -(-options.env_steps // per_step)
    points = np.linspace(0.1 * total, total, 10).astype(int)
    memory, faults, episode = [], 0, 0
    try:
        for step in track(
            range(1, total + 1), description=f"{env.engine} {env.task.name}"
        ):
            if (step - 1) % max_chunks(env) == 0:
                env.reset(everyone, everyone + episode)
                episode += env.num_envs
                drift = rng.uniform(-0.3, 0.3, (env.num_envs, 1, sizes.action_dim))
            actions = drift + rng.normal(0, 0.3, (env.num_envs, *shape))
            faults += int(env.step(everyone, np.clip(actions, -1, 1)).fault.sum())
            if step in points:
                memory.append(process.memory_info().rss / 1e6)
                count = threading.active_count()
                print(
                    f"{step * per_step:>9,} control steps: {memory[-1]:.1f} MB, "
                    f"{count} Python threads, {process.num_threads()} in all",
                    flush=True,
                )
    finally:
        env.close()
    growth = max(memory) - memory[0]
    left = threading.active_count() - threads_before
    print(
        f"{episode} episodes, {faults} faults, memory grew by {growth:.1f} MB after "
        f"the warm-up, {left} threads left over after closing"
    )
    return 1 if growth > MOST_GROWTH_MB or left > 0 else 0


if __name__ == "__main__":
    sys.exit(main())
