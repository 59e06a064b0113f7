"""Several processes of one run over loopback: as a cluster would start them."""

import socket
import subprocess
import time

from tests.support import command
from tests.support.tiny_run import VECTOR_STEP, tiny


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(
    count, policy, folder, *arguments, vector_steps=24, variables=(), **changes
) -> list[subprocess.Popen]:
    """Starts the processes of one run.

    Args:
      count: processes.
      policy: folder of the base policy.
      folder: of the run.
      *arguments: more flags.
      vector_steps: budget of the run.
      variables: process -> what its environment has more than the others'.
      **changes: of the tiny configuration.
    """
    config = tiny(policy, total_env_steps=vector_steps * VECTOR_STEP, **changes)
    flags = [command.BASE, *command.flags(config), f"--workdir={folder}", *arguments]
    several = [f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={count}"]
    return [
        command.start(
            [*flags, *([*several, f"--process_id={i}"] if count > 1 else [])],
            XLA_FLAGS="--xla_force_host_platform_device_count=1",
            **dict(variables).get(i, {}),
        )
        for i in range(count)
    ]


def finish(started) -> list[tuple[int, str]]:
    """Returns each process's exit code and stderr."""
    try:
        outputs = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    return [
        (process.returncode, errors)
        for process, (_, errors) in zip(started, outputs, strict=True)
    ]


def run(*arguments, **changes) -> list[str]:
    """Runs all to their end, which must be a good one; returns what each printed."""
    ended = finish(start(*arguments, **changes))
    for code, errors in ended:
        assert code == 0, errors
    return [errors for _, errors in ended]


def seconds_between_ends(started) -> float:
    """Waits for all processes; returns how long after the first the last one ended."""
    ends, deadline = {}, time.monotonic() + 300
    while len(ends) < len(started):
        assert time.monotonic() < deadline, "a process hangs"
        for i, process in enumerate(started):
            if i not in ends and process.poll() is not None:
                ends[i] = time.monotonic()
        time.sleep(0.05)
    return max(ends.values()) - min(ends.values())
