"""Runs an exported policy with JAX and NumPy alone; copy this file to your robot.

    python exported_policy.py can.npz --calls=200

`load_exported` is all that one needs; as a program this prints what the file is and how
long a decision takes. `dynvgd_jax.load_agent(RUN).controller().export("can.npz")` wrote
it; docs/deploy.md tells more.
"""

import argparse
import hashlib
import json
import time
import zipfile

import jax
import jax.export
import numpy as np


def load_exported(path):
    """Returns `act` and the metadata of an exported policy.

    `act(obs, seeds, chunk_index)` takes raw observations `[B, Do]`, the seeds of their
    episodes `[B]` and the number of chunks that each episode has been given before
    `[B]`, and returns raw actions `[B, Ta, Da]` float32. It compiles once for each B.

    Raises:
      ValueError: there is no such file, it is no exported policy, or damaged.
    """
    try:
        with zipfile.ZipFile(path):  # NumPy takes other files for something else
            pass
        with np.load(path) as file:
            metadata = json.loads(str(file["metadata"]))
            program = file["program"]
            weights = [file[f"weight_{i}"] for i in range(metadata["num_weights"])]
            expected = metadata["sha256"]
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is missing or damaged: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no exported policy: {error}") from error
    digest = hashlib.sha256()
    for array in (program, *weights):
        digest.update(array.tobytes())
    if digest.hexdigest() != expected:
        raise ValueError(f"{path} is damaged: its SHA-256 is another")
    call = jax.jit(jax.export.deserialize(bytearray(program)).call)
    weights = jax.device_put(weights)

    def act(obs, seeds, chunk_index):
        inputs = (np.asarray(obs, np.float32), np.asarray(seeds, np.uint32))
        return np.asarray(call(weights, *inputs, np.asarray(chunk_index, np.int32)))

    return act, metadata


def main():
    """Prints the metadata and the latency of single decisions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path")
    parser.add_argument("--calls", type=int, default=200)
    options = parser.parse_args()
    if options.calls < 1:
        parser.error(f"--calls: found {options.calls}, expected at least 1")
    try:
        act, metadata = load_exported(options.path)
    except ValueError as error:
        parser.error(str(error))
    print(json.dumps(metadata, indent=2))
    obs, milliseconds = np.zeros((1, metadata["obs_dim"])), []
    for index in range(options.calls + 1):
        begin = time.perf_counter()
        act(obs, [0], [index])
        milliseconds.append(1e3 * (time.perf_counter() - begin))
    p50, p99 = np.percentile(milliseconds[1:], (50, 99))  # the first one compiled
    print(f"one decision: p50 {p50:.2f} ms, p99 {p99:.2f} ms, {options.calls} calls")


if __name__ == "__main__":
    main()
