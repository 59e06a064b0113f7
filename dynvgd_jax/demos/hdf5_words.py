"""Prints the texts of a robomimic file as JSON; run as a process of its own.

The HDF5 library hangs or crashes on some damaged strings of variable length, which is
what robomimic writes, so that nobody reads them inside a training run.
"""

import json
import resource
import sys

import h5py

CPU_LIMIT_S = 5
MAX_TEXT, MAX_NAMES = 2**20, 10**6
NOT_HDF5 = 3  # exit code


def main(path: str) -> int:
    """Writes `{"env_args": text or null, "masks": {key: [episode, ...]}}`."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT_S, CPU_LIMIT_S))
    try:
        file = h5py.File(path, "r")
    except OSError:
        return NOT_HDF5
    with file:
        found = {"env_args": None, "masks": {}}
        data, mask = (_own_group(file, name) for name in ("data", "mask"))
        if data is not None:
            text = data.attrs.get("env_args")
            text = text.decode() if isinstance(text, bytes) else text
            if isinstance(text, str) and len(text) <= MAX_TEXT:
                found["env_args"] = str(text)
        for key in mask if mask is not None else ():
            names = mask[key]
            if isinstance(names, h5py.Dataset) and names.size <= MAX_NAMES:
                found["masks"][key] = [
                    n.decode() if isinstance(n, bytes) else str(n)
                    for n in names[()].ravel().tolist()
                ]
    print(json.dumps(found))
    return 0


def _own_group(file: h5py.File, name: str) -> h5py.Group | None:
    """A group that lies in this file; links may lead to others."""
    group = file.get(name)
    own = isinstance(group, h5py.Group) and group.file.filename == file.filename
    return group if own else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
