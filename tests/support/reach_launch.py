"""launch.py with the toy environments of tests/support/reach.py in place of robosuite.

Run as `python -m tests.support.reach_launch`, with these variables of the environment:

  KILL_AT=n     SIGKILL at the n-th moment: an environment's step or a change of a file
  SIGNAL_AT=n   SIGTERM at the n-th moment
  DISK=ENOSPC:seed1:7:20
                from this process's 7th step of environments until its 20th each write
                to files whose path holds "seed1" fails with that error; "kill" in
                place of an error is SIGKILL at the first of them
  REPLAY=EIO    reading a stored replay buffer fails
  NAN_AT=n      the environments' n-th step gives observations that are no number
"""

import errno
import os
import pathlib
import shutil
import signal
import sys

import numpy as np

from dynvgd_jax import launch
from dynvgd_jax.envs import base
from tests.support.disk import InjectedDisk
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


class Disk(InjectedDisk):
    """A disk that refuses some files for a while, as the environment says."""

    def __init__(self, text: str):
        name, part, first, last = text.split(":")
        super().__init__(getattr(errno, name, 0), part)
        self.broken, self.steps = range(int(first), int(last)), 0

    def step(self) -> None:
        self.steps += 1
        self.full = self.steps in self.broken

    def refuse(self, path: str) -> None:
        if self.number == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        super().refuse(path)


def refuse_replay(number: int) -> None:
    from dynvgd_jax.replay.log import ReplayLog

    def read(self, *arguments):
        raise OSError(number, os.strerror(number), str(self.folder))

    ReplayLog.read = read


def main() -> int:
    moment = Counter()
    for holder, name in MOMENTS:
        moment.before(holder, name)
    disk = Disk(os.environ.get("DISK", "ENOSPC::0:0"))
    if "REPLAY" in os.environ:
        refuse_replay(getattr(errno, os.environ["REPLAY"]))

    class Env(ReachEnv):
        def step(self, indices, actions):
            moment()
            disk.step()
            result = super().step(indices, actions)
            if disk.steps == int(os.environ.get("NAN_AT", 0)):
                result.obs[:] = np.nan
            return result

    base.make_env = lambda config, normalization, num_envs: Env(num_envs)
    return launch.main(sys.argv)


if __name__ == "__main__":
    sys.exit(main())
