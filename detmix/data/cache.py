"""An index on disk: what was read from many small files once need not be read again.

A cache file is its digest and typed MessagePack, so that nothing in it can run, and what is not whole or not of the
wanted kind counts as absent. Whether it is up to date is for its reader to say.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from ..files import write_whole

CacheDir = str | Path | Literal[False] | None

_LOGGER = logging.getLogger("detmix.data")
_DIGEST = 32  # bytes

Content = TypeVar("Content")


def cache_folder(cache_dir: CacheDir) -> Path | None:
    """Where cache files go.

    Args:
        cache_dir: a folder; False for nowhere; None for the environment variable ``DETMIX_CACHE_DIR``, a folder or
            ``off``, and where that is not set for ``$XDG_CACHE_HOME/detmix`` or ``~/.cache/detmix``.

    Returns:
        The folder, which need not exist; None for nowhere.
    """
    if cache_dir is None:
        cache_dir = os.environ.get("DETMIX_CACHE_DIR") or _users_folder()
    return None if cache_dir is False or str(cache_dir).lower() == "off" else Path(os.path.expanduser(cache_dir))


def _users_folder() -> Path | Literal[False]:
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return Path(chosen if os.path.isabs(chosen) else Path.home() / ".cache") / "detmix"
    except RuntimeError:  # a user without a home
        return False


def load(file: Path, kind: type[Content]) -> Content | None:
    """What a cache file holds; None if it is not there, not whole, or of another kind.

    Args:
        file: written by ``store``.
        kind: a type that msgspec can decode.
    """
    try:
        data = file.read_bytes()
        digest, content = data[:_DIGEST], data[_DIGEST:]
        return msgspec.msgpack.decode(content, type=kind) if digest == _digest(content) else None
    except (OSError, msgspec.DecodeError):
        return None


def store(file: Path, content: Any) -> None:
    """Write a cache file, whole; where that is not possible, as on a full disk, say so in the log."""
    data = msgspec.msgpack.encode(content)
    try:
        write_whole(file, lambda path: path.write_bytes(_digest(data) + data))
    except OSError as error:
        _LOGGER.info("%s: not written, so the next reading takes as long: %s", file, error)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST).digest()
