"""One process a run folder."""

import fcntl
import os
from pathlib import Path

from dynvgd_jax.core.errors import UserError

LOCK_FILE = ".lock"


class FolderLock:
    """Holds a folder for this process until `release`, or until the process dies.

    Use it in a `with` block or call `release`.

    The kernel frees it with the process, however that ends: no stale lock is left. The
    file stays behind, because deleting it would let two processes lock two files.
    """

    def __init__(self, folder: str | Path):
        """Locks `folder`, which must exist.

        Raises:
          UserError: another process holds it; its number is named.
          OSError: the folder cannot be written.
        """
        path = Path(folder) / LOCK_FILE
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW  # a link may lead anywhere
        self._descriptor = os.open(path, flags, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as error:
            holder = os.read(self._descriptor, 20).decode("ascii", "replace").strip()
            self.release()
            raise UserError(
                f"the run folder {folder} is in use by process {holder or '?'}; wait "
                "for it, stop it, or give another --workdir"
            ) from error
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Frees the folder; may be called twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *exception) -> None:
        self.release()
