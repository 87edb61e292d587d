"""Optuna's journal of a sweep: opened, looked at, and mended."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend, JournalFileOpenLock

from ..files import write_whole

_BEGIN = b'{"op_code"'  # of each record


def open_study(journal: Path) -> optuna.Study:
    """The study in a journal, which is begun if need be."""
    return _study(JournalFileBackend(str(journal), _lock_of(journal)))


def look_at_study(journal: Path) -> optuna.Study:
    """The study in a journal as it is now; an empty one where there is none. Nothing is written.

    Raises:
        ValueError: the journal is damaged.
    """
    return _study(_Copy(journal))


def mend(journal: Path) -> None:
    """Take out what a full disk or a power cut left of records, since nothing can be read behind it.

    Raises:
        ValueError: a line is damaged in another way, so that a record may be lost.
    """
    if not journal.is_file():
        return
    lock = _lock_of(journal)
    lock.acquire()
    try:
        content = journal.read_bytes()
        sound = b"".join(_sound_lines(content, journal))
        if not content.startswith(sound):
            write_whole(journal, lambda path: path.write_bytes(sound))
        elif content != sound:
            os.truncate(journal, len(sound))  # a full disk has no space for another file
    finally:
        lock.release()


class _Copy(BaseJournalBackend):
    """The records of a journal in memory; more are added there only."""

    def __init__(self, journal: Path) -> None:
        content = journal.read_bytes() if journal.is_file() else b""
        self._records = [json.loads(line) for line in _sound_lines(content, journal)]

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return self._records[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self._records += logs


def _lock_of(journal: Path) -> JournalFileOpenLock:
    return JournalFileOpenLock(str(journal))  # by default it would be a link, which some file systems have not


def _study(records: BaseJournalBackend) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(records)
    return optuna.create_study(storage=storage, study_name="sweep", direction="maximize", load_if_exists=True)


def _sound_lines(content: bytes, journal: Path) -> list[bytes]:
    """The lines of a journal, without half a record at the end, or in a line before the record that came next."""
    *lines, _ = content.split(b"\n")
    return [_sound(line, number, journal) + b"\n" for number, line in enumerate(lines, 1)]


def _sound(line: bytes, number: int, journal: Path) -> bytes:
    record = line[max(0, line.rfind(_BEGIN)) :]
    try:
        json.loads(record)
    except ValueError as error:
        raise ValueError(f"{journal}: line {number} is damaged: {error}") from None
    return record
