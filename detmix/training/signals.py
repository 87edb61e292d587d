"""SIGINT and SIGTERM as requests: the training ends at the next place from which it can go on exactly."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any

_GRACE = 30  # seconds that a worker outlives SIGTERM
_ONE_REQUEST = 2.0  # seconds in which SIGINT is the one before, passed on by a launcher


class Stopped(SystemExit):
    """A training that ended because it was asked to; the code is 128 plus the signal's number."""


class StopRequests:
    """Notes SIGINT and SIGTERM instead of ending at once; a later SIGINT, of an impatient person, does end at once.

    SIGTERM may come any number of times: a launcher passes it on to workers that a cluster has sent it to already.

    Attributes:
        received: number of the signal that came first; None as long as none has.
        at_once: whether the first one raises ``Stopped`` in the main thread, wherever that is.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self.received: int | None = None
        self.at_once = at_once
        self._received_at = 0.0
        self._handlers: dict[int, Any] = {}

    def listen(self) -> None:
        """Take the two signals over, or take them back from whoever has done so since.

        Python allows that in the main thread only; elsewhere nothing happens.
        """
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers.setdefault(number, signal.getsignal(number))
                signal.signal(number, self._note)

    def restore(self) -> None:
        """Give the signals back to whom they belonged."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._received_at = number, time.monotonic()
            when = (
                "." if self.at_once else " after this step; Ctrl-C again, two seconds or more from now, ends at once."
            )
            # not print: its buffer may be in use just now
            with suppress(OSError):  # whoever read it may have got the signal too, as `tee` does
                os.write(2, f"\n{signal.Signals(number).name}: stopping{when}\n".encode())
            if self.at_once:
                raise Stopped(128 + number)
        elif number == signal.SIGINT and time.monotonic() - self._received_at > _ONE_REQUEST:
            signal.default_int_handler(number, frame)


def leave_signals_to_the_parent() -> None:
    """Let a data-loading worker outlive SIGINT and SIGTERM that were sent to all processes of the training.

    Without workers the training could not finish its step. A worker ends with the training; and half a minute after
    SIGTERM at the latest, since that is also how a stuck one is ended.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE))
