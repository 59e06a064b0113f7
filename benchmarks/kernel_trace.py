"""Where the time of a compiled call goes on the device, by kernel class.

`jax.profiler` writes a trace, which is read here and thrown away. On a GPU the kernels
are those of its streams; on a CPU, XLA's operations.
"""

import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
from jax.profiler import ProfileData

# What a kernel's or an operation's name says of it, tried in this order.
CLASSES = {
    "products": re.compile(r"gemm|dot|cutlass|cublas|xmma|nvjet|wgmma|matmul|splitk"),
    "copies": re.compile(r"memcpy|memset|copy"),
    "elementwise": re.compile(""),  # and sums: everything else
}
# Operations of a CPU that contain others.
_CONTAINERS = re.compile(r"^(while|call|conditional)\b")
LARGEST = 5  # kernels that are named


class Kernel(NamedTuple):
    """One kernel, or one operation of a CPU."""

    name: str
    start_ns: float
    end_ns: float


def record(call: Callable[[], object], calls: int) -> list[Kernel]:
    """Returns the kernels of `calls` calls, each of which waits for its result."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(calls):
                call()
        (path,) = Path(folder).rglob("*.xplane.pb")
        return read(ProfileData.from_file(str(path)))


def read(data: ProfileData) -> list[Kernel]:
    """Returns a trace's kernels, by their start."""
    found = []
    planes = list(data.planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    for plane in devices or planes:
        for line in plane.lines:
            if devices and not line.name.startswith("Stream"):
                continue
            for event in line.events:
                op = dict(event.stats).get("hlo_op")
                if not devices and (op is None or _CONTAINERS.match(str(op))):
                    continue
                end = event.start_ns + event.duration_ns
                of_op = f" of {op}" if op not in (None, event.name) else ""
                found.append(Kernel(f"{event.name}{of_op}", event.start_ns, end))
    return sorted(found, key=lambda kernel: kernel.start_ns)


def class_of(kernel: Kernel) -> str:
    """Returns the kernel's class, a key of CLASSES."""
    name = kernel.name.lower()
    return next(kind for kind, pattern in CLASSES.items() if pattern.search(name))


def busy_ns(kernels: list[Kernel]) -> float:
    """Returns for how long at least one of `kernels` ran, which come by their start."""
    busy = end = 0.0
    for kernel in kernels:
        busy += max(kernel.end_ns - max(kernel.start_ns, end), 0.0)
        end = max(end, kernel.end_ns)
    return busy


def profile_rows(
    kernels: list[Kernel], steps: int, what: str = "gradient step"
) -> Iterator[tuple[str, float, str]]:
    """Yields, of one of `steps` steps, kernels and milliseconds by class, and gaps.

    Gaps are what of the time from the first kernel's start to the last one's end no
    kernel ran. Then the kernels that took longest, all of one name together.
    """
    if not kernels:
        return
    span = max(k.end_ns for k in kernels) - kernels[0].start_ns
    yield f"{what}: kernels", len(kernels) / steps, "1"
    by_class, by_name = defaultdict(float), defaultdict(float)
    for kernel in kernels:
        by_class[class_of(kernel)] += kernel.end_ns - kernel.start_ns
        by_name[kernel.name] += kernel.end_ns - kernel.start_ns
    for kind in CLASSES:
        yield f"{what}: {kind}", by_class[kind] / steps / 1e6, "ms"
    yield f"{what}: gaps", (span - busy_ns(kernels)) / steps / 1e6, "ms"
    for name in sorted(by_name, key=lambda n: -by_name[n])[:LARGEST]:
        yield f"{what}: {name[:60]}", by_name[name] / steps / 1e6, "ms"
