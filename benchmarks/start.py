"""Seconds from the command to the end of a run's first training call.

    python -m benchmarks.start [--config=configs/square_ddim8.py:quick] [--episodes=0]
        [--first_rollouts=0] [--json]

Starts the command twice with an empty folder for compiled programs, so the second
start finds what the first one compiled (numba's machine code of the simulator is
compiled by the first start on a machine, see docs/rollouts.md, and is there already
where anything has run). The first training call has ended when its checkpoint is there.
The evaluation of the base policy and the first rollouts come before it; `--episodes`
and `--first_rollouts` (control steps) shorten them, 0 keeps the configuration's.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.learner_setup import print_row

ROOT = Path(__file__).resolve().parent.parent
GIVE_UP_S = 3600


def first_training_call(command: list[str], workdir: Path, cache: Path) -> float:
    """Returns the seconds until `command` has written its first learned checkpoint."""
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    begin = time.perf_counter()
    process = subprocess.Popen(
        [*command, f"--workdir={workdir}"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    try:
        while time.perf_counter() - begin < GIVE_UP_S:
            steps = [p.name for p in (workdir / "checkpoints").glob("[1-9]*")]
            if any(name.isdecimal() for name in steps):
                return time.perf_counter() - begin
            if process.poll() is not None:
                raise SystemExit(f"the run ended early, code {process.returncode}")
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    raise SystemExit(f"no training call within {GIVE_UP_S} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/square_ddim8.py:quick")
    parser.add_argument("--episodes", type=int, default=0)
    parser.add_argument("--first_rollouts", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one object per line")
    options = parser.parse_args()
    command = [sys.executable, "launch.py", f"--config={options.config}"]
    # A checkpoint before the first training call would be taken for it.
    command.append("--config.checkpoint.every_env_steps=1000000000")
    if options.episodes:
        command.append(f"--config.eval.episodes={options.episodes}")
    if options.first_rollouts:
        steps = options.first_rollouts
        command.append(f"--config.first_rollout_env_steps={steps}")
    with tempfile.TemporaryDirectory() as folder:
        for start in ("first", "second"):
            workdir = Path(folder) / start
            seconds = first_training_call(command, workdir, Path(folder) / "cache")
            what = f"{start} start, to the end of the first training call"
            print_row(Path(options.config).stem, (what, seconds, "s"), options.json)


if __name__ == "__main__":
    main()
