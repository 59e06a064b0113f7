"""Milliseconds per gradient step of pre-training, Can and Square sizes, random data.

python -m benchmarks.pretrain
"""

import functools
import sys
import time

import jax
import numpy as np

from configs import can_pretrain, square_pretrain
from dynvgd_jax.core.jax_start import run_on_devices
from dynvgd_jax.diffusion import cloning
from dynvgd_jax.diffusion.base import Spec
from dynvgd_jax.diffusion.kinds import KINDS
from dynvgd_jax.diffusion.network import DiffusionMLP

STEPS, REPEATS = 50, 8


def main():
    rng = np.random.default_rng(0)
    obs, actions = rng.normal(size=(50_000, 23)), rng.normal(size=(50_000, 7))
    chunks = jax.device_put(cloning.make_chunks(obs, actions, np.full(250, 200), 4))
    for module in (can_pretrain, square_pretrain):
        config = module.get_config()
        network = DiffusionMLP(23, 7, 4, **config.network.to_dict())
        recipe = cloning.Recipe(config.num_steps, config.batch_size)
        model = KINDS[config.policy_kind], Spec(network, config.num_train_timesteps)
        state = cloning.init_state(*model, recipe, jax.random.key(0))
        update = functools.partial(
            jax.jit(cloning.make_update(*model, recipe), donate_argnums=0),
            key=jax.random.key(1),
            chunks=chunks,
            num_steps=STEPS,
        )
        wall, cpu = [], []
        for _ in range(REPEATS + 1):
            start = time.perf_counter(), time.process_time()
            state = jax.block_until_ready(update(state))[0]
            wall.append((time.perf_counter() - start[0]) / STEPS)
            cpu.append((time.process_time() - start[1]) / STEPS)
        print(
            f"{config.task}: median {1e3 * np.median(wall[1:]):.1f}, best "
            f"{1e3 * min(wall[1:]):.1f} ms wall, {1e3 * np.median(cpu[1:]):.1f} ms CPU "
            f"per step; {config.num_steps:,} steps take "
            f"{config.num_steps * np.median(wall[1:]) / 60:.0f} min"
        )


if __name__ == "__main__":
    sys.exit(run_on_devices("pretrain.py", main))
