"""SIGINT and SIGTERM as requests: the training ends at the next place from which it can go on exactly."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

_GRACE = 30  # seconds that a worker outlives SIGTERM


class StopRequests:
    """Notes SIGINT and SIGTERM instead of ending at once; a second one does end the process at once.

    Attributes:
        received: number of the signal that came; None as long as none has.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._handlers: dict[int, Any] = {}

    def listen(self) -> None:
        """Take the two signals over. Python allows that in the main thread only; elsewhere nothing happens."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._note)

    def restore(self) -> None:
        """Give the signals back to whom they belonged."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        name = signal.Signals(number).name
        # not print: its buffer may be in use just now
        os.write(2, f"\n{name}: stopping after this step; a second signal ends at once.\n".encode())


def leave_signals_to_the_parent() -> None:
    """Let a data-loading worker outlive SIGINT and SIGTERM that were sent to all processes of the training.

    Without workers the training could not finish its step. A worker ends with the training; and half a minute after
    SIGTERM at the latest, since that is also how a stuck one is ended.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE))
