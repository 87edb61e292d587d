"""What the tools show in a terminal: progress bars, and tables of numbers."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO, cast

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .captions import as_utf8, one_line

_NAME = 8  # characters of a name that stay beside each other however narrow the terminal is


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Bars on standard error, gone when the work is done."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield bars


def tell(text: str, style: str | None = None) -> None:
    """Print a line as it is: what looks like rich's markup in a path is none, and no path is broken in two."""
    Console().print(text, style=style, soft_wrap=True, markup=False, emoji=False)


class Parser(ArgumentParser):
    """Takes an option of several words with underscores too, as the trainer's are written."""

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        """What argparse makes of the arguments; see there."""
        given = sys.argv[1:] if args is None else args
        return super().parse_known_args([self._own(argument) for argument in given], namespace)

    def _own(self, argument: str) -> str:
        name, *value = argument.split("=", 1)
        own = name.replace("_", "-")
        known = name.startswith("--") and own in self._option_string_actions
        return "=".join([own, *value]) if known else argument


def require_text(parser: ArgumentParser, arguments: Sequence[str] | None = None) -> None:
    """End the program with an error if an argument has bytes that are no text in UTF-8, and so could not be printed.

    Args:
        parser: of the arguments.
        arguments: those of the process unless given.
    """
    for argument in sys.argv[1:] if arguments is None else arguments:
        if as_utf8(argument) != argument:
            parser.error(f"arguments must be text in UTF-8, got {argument!r}")


def replace_unprintable() -> None:
    """Have a ? printed for what the encoding of standard output lacks, where Python ends the program.

    It is called when the arguments have been parsed, for ``--print_config`` prints a file, in which nothing is to be
    replaced. Standard error needs none of it: Python escapes such characters there.
    """
    reconfigure = getattr(sys.stdout, "reconfigure", None)  # a notebook's has none
    if reconfigure is not None:
        with suppress(OSError):  # where its descriptor leads to a pipe by now, and led to a file when it was opened
            reconfigure(errors="replace")


@contextmanager
def outliving_readers() -> Iterator[None]:
    """Go on in silence when nobody reads the output any more, where Python raises and rich ends the program."""
    with redirect_stdout(_unbroken(sys.stdout)), redirect_stderr(_unbroken(sys.stderr)):
        yield


class _Unbroken:
    """A stream that leads nowhere from when nobody reads it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._going_quiet():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._going_quiet():
            self._stream.flush()

    @contextmanager
    def _going_quiet(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            # what is left in the buffer goes there too: at the end Python would change the exit code for it
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def _unbroken(stream: TextIO) -> TextIO:
    return cast("TextIO", _Unbroken(stream))


def bar_of(bars: Progress, name: str, unit: str) -> Callable[[int, int], None]:
    """A new bar, as a function of how much is done and of how much."""
    task = bars.add_task(f"{name}: {unit}", total=None)
    return lambda done, total: bars.update(task, completed=done, total=total)


def table_of(title: str, names: Sequence[str], numbers: Sequence[str]) -> Table:
    """An empty table whose names break into lines where the terminal is narrow, so that no number is cut short.

    Args:
        title: written above it.
        names: headings of the first columns.
        numbers: headings of the columns of numbers after them.
    """
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(name, overflow="fold", min_width=_NAME)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def as_text(name: str) -> str:
    """A name from data for a table, in which neither rich's markup nor a terminal's own codes count."""
    return escape(one_line(name))
