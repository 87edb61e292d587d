"""One training at a time writes to the folder of a run."""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import IO


def hold(run_dir: Path) -> IO[str]:
    """Hold the folder of a run for this process, until ``let_go`` of what is returned or the process is gone.

    The lock is POSIX's, which data-loading workers do not share, on ``.<name>.lock`` beside the folder, which may be
    renamed meanwhile. On a file system without locks nothing is held.

    Raises:
        ValueError: another process holds it; it is named.
        OSError: the file cannot be written.
    """
    folder = run_dir.resolve()  # one lock for all links to it
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.parent / f".{folder.name}.lock"
    file = path.open("a+")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:  # POSIX leaves open which of them tells that it is held
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise ValueError(
            f"{run_dir} is being written to by {holder}: end that first, or pass another --name"
        ) from error
    except OSError:
        return file
    if not _is_at(path, file):  # who held it has let it go just now
        file.close()
        return hold(run_dir)
    with suppress(OSError):  # a full disk; it is told where something is lost by it
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
    return file


def let_go(file: IO[str]) -> None:
    """Let another process hold the folder, and leave nothing beside it."""
    with suppress(OSError):
        os.unlink(file.name)
    file.close()


def _is_at(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
