"""What is used of tensorboardX, which is imported without PyTorch.

Where PyTorch is installed tensorboardX imports it too, for tensors that nobody here
logs: more than a second and 150 MB of every start.
"""

import contextlib
import sys
from collections.abc import Iterator

__all__ = ["Event", "FileWriter", "Summary", "masked_crc32c", "summary"]


@contextlib.contextmanager
def _hidden(package: str) -> Iterator[None]:
    """Inside, what is not imported yet is not installed."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None
    try:
        yield
    finally:
        del sys.modules[package]


with _hidden("torch"):
    from tensorboardX import FileWriter, summary
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary
    from tensorboardX.record_writer import masked_crc32c
