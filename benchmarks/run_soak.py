"""Watches a training run's memory, open files and threads for a long time.

    python -m benchmarks.run_soak --minutes=60 --warmup_minutes=10

Starts the quick Lift run with a budget that does not end, frequent checkpoints and
evaluations, looks at the process every few seconds, then ends it with SIGTERM and
checks that it saved its state and exited with code 0. Fails where resident memory grew
by 1 MB a minute or more after the warm-up, or where open files or threads grew.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parent.parent
RUN = [
    "--config=configs/lift_ddim8.py:quick",
    "--config.total_env_steps=1000000000",
    "--config.first_rollout_env_steps=1600",
    # overwritten within the hour; all of it is reserved at the start
    "--config.replay.capacity=50000",
    "--config.log.every_env_steps=320",
    "--config.checkpoint.every_env_steps=1600",
    "--config.eval.every_env_steps=4800",
    "--config.eval.episodes=8",
    "--config.eval.num_envs=4",
]
MOST_GROWTH_MB_PER_MIN = 1.0
SLACK = 2  # open files or threads
SAMPLE_EVERY_S = 3.0
STOP_WITHIN_S = 300.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--warmup_minutes", type=float, default=10.0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="run_soak_"))
    command = [sys.executable, "launch.py", *RUN, f"--workdir={folder / 'run'}"]
    print(f"+ {' '.join(command)}", flush=True)
    with open(folder / "output.txt", "wb") as output:
        child = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    try:
        samples = _watch(child, 60 * options.minutes)
        child.send_signal(signal.SIGTERM)
        code = child.wait(STOP_WITHIN_S)
    finally:
        child.kill()
        child.wait()
    text = (folder / "output.txt").read_text(errors="replace")
    print(f"exit code {code} after SIGTERM; the run's last lines:")
    print("\n".join(text.splitlines()[-3:]))
    sound = _report(samples, 60 * options.warmup_minutes)
    if code == 0 and sound:
        shutil.rmtree(folder)
        return 0
    print(f"failed; the run is in {folder}")
    return 1


def _watch(child: subprocess.Popen, seconds: float) -> np.ndarray:
    """Returns rows of (seconds, resident MB, its anonymous part, files, threads).

    The kernel takes pages of files away from a process as it likes, so that a slow leak
    could hide in what is resident; it gives anonymous ones back only when told to.
    """
    process, start, rows, lines = psutil.Process(child.pid), time.monotonic(), [], 0
    while (now := time.monotonic() - start) < seconds and child.poll() is None:
        with process.oneshot():
            memory = process.memory_info()
            sizes_mb = memory.rss / 1e6, (memory.rss - memory.shared) / 1e6
            rows.append((now, *sizes_mb, process.num_fds(), process.num_threads()))
        if now / 60 >= lines:
            lines += 1
            print(
                f"{now / 60:5.1f} min: {sizes_mb[0]:8.1f} MB, anonymous "
                f"{sizes_mb[1]:8.1f}; {rows[-1][3]} open files, {rows[-1][4]} threads",
                flush=True,
            )
        time.sleep(SAMPLE_EVERY_S)
    return np.array(rows)


def _report(samples: np.ndarray, warmup_s: float) -> bool:
    """Prints a line for each of memory, open files and threads; False on growth."""
    late = samples[samples[:, 0] >= warmup_s]
    if len(late) < 10:
        print(f"only {len(late)} samples after the warm-up")
        return False
    minutes, sound = late[:, 0] / 60, True
    for name, column in (("resident memory", 1), ("its anonymous part", 2)):
        memory = late[:, column]
        slope = np.polyfit(minutes, memory, 1)[0]
        print(
            f"{name}: {slope:+.3f} MB/min over {np.ptp(minutes):.1f} minutes after the "
            f"warm-up, from {memory.min():.1f} to {memory.max():.1f} MB"
        )
        sound &= bool(slope < MOST_GROWTH_MB_PER_MIN)
    third = len(late) // 3
    # Saving opens files and threads for a moment: medians, and a little slack for how
    # often a sample falls into one.
    for name, column in (("open files", 3), ("threads", 4)):
        first, last = np.median(late[:third, column]), np.median(late[-third:, column])
        print(f"{name}: median {first:g} in the first third, {last:g} in the last")
        sound &= bool(last <= first + SLACK)
    return sound


if __name__ == "__main__":
    sys.exit(main())
