"""A disk that refuses to be written for a while."""

import os
from collections.abc import Callable


class InjectedDisk:
    """Every write to some files fails while the disk is full or broken."""

    def __init__(self, number: int, part: str = "", patch: Callable = setattr):
        """Takes the place of what all writers end with.

        Args:
          number: of the error, as in `errno`.
          part: of the paths of files that are concerned.
          patch: puts a function in a module's place.
        """
        self.number, self.part, self.full = number, part, False
        for name in ("fsync", "pwrite"):
            patch(os, name, self._guard(getattr(os, name)))

    def _guard(self, original):
        def call(descriptor, *arguments):
            if self.full:
                path = os.readlink(f"/proc/self/fd/{descriptor}")
                if self.part in path:
                    self.refuse(path)
            return original(descriptor, *arguments)

        return call

    def refuse(self, path: str) -> None:
        raise OSError(self.number, os.strerror(self.number), path)

    def fill(self) -> None:
        self.full = True

    def free(self) -> None:
        self.full = False
