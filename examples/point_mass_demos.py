"""Demonstrations of one's own, for pre-training: docs/own.md.

  python -m examples.point_mass_demos data/point_mass

Several operators push the point of examples/point_mass.py to its goal, and half of them
stop short of it: a policy that imitates them fails often, and steering can choose.
"""

import argparse
from pathlib import Path

import numpy as np

from dynvgd_jax.demos.files import DemoEpisode, write_dppo
from examples.point_mass import RADIUS, SPEED

STEPS = 48


def demonstrate(seed):
    """Returns one episode in raw units, as your robot would record it."""
    rng = np.random.default_rng(seed)
    point, way = rng.uniform(-1, 1, 2), rng.uniform(-1, 1, 2)
    stops_at = rng.choice([0.0, 0.3])
    obs, actions, rewards = [], [], []
    for _ in range(STEPS):
        length = np.linalg.norm(way)
        speed = np.clip((length - stops_at) / SPEED, 0, 1)
        action = speed * way / max(length, 1e-6) + rng.normal(0, 0.1, 2)
        action = np.clip(action, -1, 1)
        obs.append([*point, *way])
        point, way = point + SPEED * action, way - SPEED * action
        actions.append(action)
        rewards.append(float(np.linalg.norm(way) < RADIUS))
    arrays = (np.array(part, np.float32) for part in (obs, actions, rewards))
    return DemoEpisode(*arrays, last_obs=np.array([*point, *way], np.float32))


def main(arguments=None):
    """Writes train.npz and normalization.npz."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    if folder.exists():
        parser.error(f"{folder} exists already; give one that does not")
    folder.mkdir(parents=True)
    write_dppo(folder, [demonstrate(seed) for seed in range(400)])
    print(f"wrote {folder}: train.npz, normalization.npz")


if __name__ == "__main__":
    main()
