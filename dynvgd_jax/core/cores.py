"""How many CPU cores this process may use."""

import math
import os
from pathlib import Path

_CGROUPS, _OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def usable_cores(root: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> int:
    """Returns the cores that this process may use, at least 1.

    The fewer of those it may run on (`taskset`, SLURM) and those whose time its control
    groups allow (containers), rounded up.

    Args:
      root: where the control groups are mounted.
      own: the file that names this process's groups.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    quotas = [math.ceil(quota) for quota in _quotas(root, own)]
    return max(1, min([cores, *quotas]))


def _quotas(root: Path, own: Path) -> list[float]:
    """The limits, in cores, of this process's control groups and of those above them.

    Lines of `own` are `number:controllers:path`, without controllers in version 2. A
    container may see its own group as the root, under a path from outside: groups whose
    folder is missing are passed over.
    """
    found = []
    for line in _read(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "cpu" if controllers else root
        folder = mount / path.lstrip("/")
        for group in (folder, *folder.parents):
            if controllers:
                words = [_read(group / f"cpu.cfs_{w}_us") for w in ("quota", "period")]
            else:
                words = _read(group / "cpu.max").split()
            quota, period = (*words, "", "")[:2]
            if quota.strip().isdigit() and period.strip().isdigit():  # not max, not -1
                found.append(int(quota) / int(period))
            if group == mount:
                break
    return found


def _read(path: Path) -> str:
    """The file's text; nothing where there is no such file."""
    try:
        return path.read_text()
    except OSError:
        return ""
