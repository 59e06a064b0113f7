"""launch.py with the toy environments of tests/support/reach.py in place of robosuite.

Run as `python -m tests.support.reach_launch`, with these variables of the environment:

  KILL_AT=n     SIGKILL at the n-th moment: an environment's step or a change of a file
  SIGNAL_AT=n   SIGTERM at the n-th moment
"""

import os
import pathlib
import shutil
import signal
import sys

from dynvgd_jax import launch
from dynvgd_jax.envs import base
from tests.support.reach import ReachEnv

MOMENTS = ((os, "fsync"), (os, "pwrite"), (os, "replace"), (pathlib.Path, "rename"))
MOMENTS += ((os, "unlink"), (shutil, "rmtree"))  # os.unlink: rmtree's single files
SIGNALS = {"KILL_AT": signal.SIGKILL, "SIGNAL_AT": signal.SIGTERM}


class Counter:
    """Sends this process a signal at the moment that the environment names."""

    def __init__(self):
        self.count = 0

    def __call__(self) -> None:
        self.count += 1
        for name, number in SIGNALS.items():
            if self.count == int(os.environ.get(name, 0)):
                os.kill(os.getpid(), number)

    def before(self, holder, name: str) -> None:
        """Makes each call of a function a moment."""
        original = getattr(holder, name)

        def counted(*arguments, **options):
            self()
            return original(*arguments, **options)

        setattr(holder, name, counted)


def main() -> int:
    moment = Counter()
    for holder, name in MOMENTS:
        moment.before(holder, name)

    class Env(ReachEnv):
        def step(self, indices, actions):
            moment()
            return super().step(indices, actions)

    base.make_env = lambda config, normalization, num_envs: Env(num_envs)
    return launch.main(sys.argv)


if __name__ == "__main__":
    sys.exit(main())
