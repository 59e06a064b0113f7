"""Run by tests/training/test_wiring_draws.py in a process with 2 virtual CPU devices.

`python -m tests.support.wiring_child FOLDER` makes one training call, whose two devices
see different rewards of the same observations and actions, and prints one JSON object.
"""

import json
import sys
from pathlib import Path

import tests.conftest  # noqa: F401  strict shapes, exact products, CPU

# isort: split
import jax
import numpy as np

from dynvgd_jax import load_agent
from tests.support import wiring
from tests.support.same_run import arrays, scalars
from tests.support.scripted import ScriptedEnv
from tests.support.wiring import VECTOR_STEP, wired

REWARDS = np.array([3000.0, -1000.0], np.float32)


class PairEnv(ScriptedEnv):
    """Environments that differ in their reward only."""

    def obs_of(self, seed, chunk):
        return np.zeros(self.sizes.obs_dim, np.float32)

    def step(self, indices, actions):
        result = super().step(indices, actions)
        result.reward[:] = 0.0
        result.reward[:, 0] = REWARDS[indices]
        return result


def main(folder: Path):
    # The noise that this policy predicts makes all of its actions 1.
    policy = wiring.save_toy_policy(folder / "policy", gain=0.0, bias=-1e4)
    config = wired(
        policy,
        **{
            "ddim_steps": 1,
            "guidance.scale": 0.0,
            "first_rollout_env_steps": 2 * VECTOR_STEP,
            "total_env_steps": 3 * VECTOR_STEP,
            "gamma": 0.0,
            "target_clip": 0.0,
            "reward_offset": 0.0,
        },
    )
    (training,), _ = wiring.run(config, folder / "run", PairEnv)
    assert all((step.actions == 1.0).all() for step in training.played)
    leaves = wiring.learner(arrays(folder / "run", config.total_env_steps))
    (moment,) = [
        x for name, x in leaves.items() if name.endswith("out/bias") and "/mu/" in name
    ]
    ((_, logged),) = scalars(folder / "run")["train/td_error_mean"]
    found = {
        "devices": jax.local_device_count(),
        "first_moment_of_last_bias": np.ravel(moment).tolist(),
        "td_error": float(load_agent(folder / "run").learner.td_error),
        "logged_td_error": logged,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
