"""What a GPU machine reaches, in under five minutes: one table, and JSON.

    python -m benchmarks.accelerator [--parts=ceilings,tf32,...] [--limit_s=290]
        [--output=accelerator.json] [--device=gpu] [--tiny]

Each part is a process of its own with its own time limit; what it has found by then is
reported, and the next part begins. `--limit_s` bounds all together: the last parts are
left out where it is spent. Where nothing can be installed, `benchmarks/pack.py` packs
what this needs beside jax, flax, optax, orbax-checkpoint, numba, h5py, tensorboard and
PyTorch. One GPU is looked at: CUDA_VISIBLE_DEVICES chooses it. `--tiny` is the same
with sizes for a CPU, which say nothing.

Parts: ceilings (products in each precision, a copy); tf32, bfloat16, float32 (gradient
step, its kernels by class, acting, memory of the published Square configuration);
pytorch (the published call on the same card); run_can, run_square (whole runs of the
published configurations), run_gpu (preset `:gpu` on Square); seeds (1, 2, 4 and 8 side
by side).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from rich.markup import escape
from rich.table import Table

from dynvgd_jax.core.command import run_command
from dynvgd_jax.runs.terminal import print_table

ROOT = Path(__file__).resolve().parent.parent


class Part(NamedTuple):
    """One process."""

    rows: Callable  # (accelerator_parts, scale, device) -> rows
    limit_s: float
    jax_on_cpu: bool = False


TORCH_DEVICES = {"gpu": "cuda", "cpu": "cpu"}

# By importance: what does not fit into `--limit_s` is at the end.
PARTS = {
    "ceilings": Part(lambda parts, scale, device: parts.ceilings(scale), 40),
    "tf32": Part(lambda parts, scale, device: parts.learner(scale, "tf32"), 70),
    "bfloat16": Part(lambda parts, scale, device: parts.learner(scale, "bfloat16"), 70),
    "pytorch": Part(
        lambda parts, scale, device: parts.pytorch(scale, TORCH_DEVICES[device]),
        40,
        True,
    ),
    "run_can": Part(
        lambda parts, scale, device: parts.whole_run(scale, "can", "published"), 90
    ),
    "run_gpu": Part(
        lambda parts, scale, device: parts.whole_run(scale, "square", "gpu"), 70
    ),
    "seeds": Part(lambda parts, scale, device: parts.seeds(scale), 70),
    "run_square": Part(
        lambda parts, scale, device: parts.whole_run(scale, "square", "published"), 70
    ),
    "float32": Part(lambda parts, scale, device: parts.learner(scale, "float32"), 90),
}
PRECISIONS = ("float32", "tf32", "bfloat16")

Found = dict[str, dict[str, tuple[float, str]]]  # part -> what -> (value, unit)


def run_part(name: str, device: str, tiny: bool, output: Path) -> None:
    """Writes a part's rows as lines of JSON, each as soon as it is known."""
    from benchmarks import accelerator_parts as parts

    if device == "gpu" and not PARTS[name].jax_on_cpu:
        parts.require_gpu()
    scale = parts.TINY if tiny else parts.Scale()
    with output.open("w") as file:
        for row in PARTS[name].rows(parts, scale, device):
            file.write(json.dumps(row) + "\n")
            file.flush()


def start_part(
    name: str, device: str, tiny: bool, limit_s: float
) -> tuple[dict[str, tuple[float, str]], dict[str, object]]:
    """Runs a part in a process; returns its rows and how it ended."""
    part, begin = PARTS[name], time.perf_counter()
    environment = dict(os.environ)
    if part.jax_on_cpu or device == "cpu":
        environment["JAX_PLATFORMS"] = "cpu"
    environment.setdefault("CUDA_VISIBLE_DEVICES", "0")  # one card is looked at
    with tempfile.TemporaryDirectory() as folder:
        rows, log = Path(folder) / "rows", Path(folder) / "log"
        command = [sys.executable, "-m", "benchmarks.accelerator", f"--one={name}"]
        command += [f"--device={device}", f"--output={rows}", *["--tiny"] * tiny]
        with log.open("w") as file:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=file, stderr=file
            )
            try:
                code = process.wait(limit_s)
                ended = "done" if code == 0 else f"failed: {last_line(log)}"
            except subprocess.TimeoutExpired:
                ended = f"cut off after {limit_s:.0f} s"
            finally:
                process.kill()
                process.wait()
        found = read_rows(rows)
    seconds = round(time.perf_counter() - begin, 1)
    return found, {"ended": ended, "seconds": seconds}


def read_rows(path: Path) -> dict[str, tuple[float, str]]:
    """Returns what a part wrote; a line that was cut off is left out."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            what, value, unit = json.loads(line)
        except ValueError:
            continue
        found[what] = (value, unit)
    return found


def last_line(log: Path) -> str:
    """Returns a failed part's last words."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "it said nothing")


def derived(found: Found) -> Iterator[tuple[str, str, float, str]]:
    """Yields what follows from several parts: (part, what, value, unit).

    The limit of a gradient step is its products at the speed of a plain one, and one
    pass of Adam and Polyak at the speed of a copy: five arrays of the critics' size
    are read and four written.
    """
    ceilings = found.get("ceilings", {})
    speeds = {
        precision: value
        for what, (value, _) in ceilings.items()
        for precision in PRECISIONS
        if what.startswith("product") and what.endswith(f", {precision}")
    }
    copies = [value for what, (value, _) in ceilings.items() if what.startswith("copy")]
    for part in PRECISIONS:
        own = found.get(part, {})
        if "gradient step" not in own:
            continue
        step_ms = own["gradient step"][0]
        gflop = own["gradient step: products by formula"][0]
        yield part, "gradient step: speed", gflop / step_ms, "TFLOP/s"
        if part in speeds and copies:
            product_ms = gflop / speeds[part]
            pass_ms = 9 * own["critics' parameters"][0] / copies[0] / 1e3
            share = product_ms / step_ms
            yield part, "gradient step: share of the plain product", share, "1"
            yield part, "gradient step: limit", product_ms + pass_ms, "ms"
            share = (product_ms + pass_ms) / step_ms
            yield part, "gradient step: share of the limit", share, "1"
        theirs = found.get("pytorch", {}).get("gradient step, float32")
        if theirs:
            times = theirs[0] / step_ms
            yield part, "gradient step: times faster than PyTorch float32", times, "1"


def describe(device: str) -> dict[str, object]:
    """Returns machine and versions, without opening the device in this process."""
    from importlib import metadata

    packages = ("jax", "jaxlib", "flax", "torch", "mujoco", "robosuite", "numpy")
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    card = "cpu"
    if device == "gpu":
        query = [
            "nvidia-smi",
            "--query-gpu=name,driver_version",
            "--format=csv,noheader",
        ]
        try:
            card = subprocess.run(query, capture_output=True, text=True).stdout.strip()
        except OSError:
            card = "unknown: found no nvidia-smi"
    cores = len(os.sched_getaffinity(0))
    python = sys.version.split()[0]
    return {"card": card, "cores": cores, "python": python, "versions": versions}


def print_found(found: Found, ended: dict[str, dict[str, object]]) -> None:
    """Prints one table of all that was found."""
    table = Table(title="The accelerator")
    for heading in ("part", "what", "value", "unit"):
        table.add_column(heading, justify="right" if heading == "value" else "left")
    for part, rows in found.items():
        how = ended[part]
        ended_by = escape(f"({how['ended']})")
        table.add_row(part, ended_by, f"{how['seconds']}", "s", style="bold")
        for what, (value, unit) in rows.items():
            table.add_row("", escape(what), f"{value:.4g}", unit)
    print_table(table)


def main(arguments=None) -> int:
    """Reads the command line, runs the parts, prints and writes what they found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--limit_s", type=float, default=290, help="of all parts")
    parser.add_argument("--output", type=Path, default=Path("accelerator.json"))
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--tiny", action="store_true", help="sizes for a CPU")
    parser.add_argument("--one", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        arguments = (options.one, options.device, options.tiny, options.output)
        return run_command("accelerator.py", lambda: run_part(*arguments))
    names = options.parts.split(",")
    unknown = sorted(set(names) - set(PARTS))
    if unknown:
        parser.error(
            f"--parts: found {', '.join(unknown)}, known are {', '.join(PARTS)}"
        )
    begin, found, ended = time.perf_counter(), {}, {}
    for name in names:
        left = options.limit_s - (time.perf_counter() - begin)
        if left <= 0:
            found[name], ended[name] = {}, {"ended": "left out", "seconds": 0}
            continue
        limit_s = min(PARTS[name].limit_s, left)
        found[name], ended[name] = start_part(
            name, options.device, options.tiny, limit_s
        )
        print(f"{name}: {ended[name]['ended']}", file=sys.stderr, flush=True)
    for part, what, value, unit in list(derived(found)):
        found[part][what] = (value, unit)
    report = {"machine": describe(options.device), "parts": ended, "found": found}
    options.output.write_text(json.dumps(report, indent=1) + "\n")
    print_found(found, ended)
    return 0 if all(how["ended"] == "done" for how in ended.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
