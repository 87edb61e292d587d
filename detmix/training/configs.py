"""YAML of configs, as jsonargparse reads it, within bounds."""

from __future__ import annotations

from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

CONFIG_MODE = "bounded_yaml"  # the parser_mode for all parsers of configs

_MOST_TEXT = 1_000_000  # characters of a config, its aliases written out
_DEEPEST = 50  # brackets and indentations around a value


def load_config(text: str) -> Any:
    """The values of a YAML text.

    Aliases can make a short text stand for one that fills any memory, and deep nesting ends in jsonargparse as an error
    without a word of the file; both are refused.

    Raises:
        yaml.YAMLError: it is not YAML, or of more than a million characters with its aliases written out, or nested
            more than fifty deep, or holds the character NUL.
    """
    _require_bounded(text)
    return get_loader("yaml")(text)


def _require_bounded(text: str) -> None:
    sizes: dict[str | None, int] = {}  # of what has an anchor, in characters
    opened: list[tuple[str | None, int]] = []  # collections that are not closed yet: anchor, size before it
    size = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in (anchor for anchor, _ in opened):
                raise yaml.YAMLError(f"*{event.anchor} stands within what it stands for")
            size += sizes.get(event.anchor, 0)
        elif isinstance(event, yaml.ScalarEvent):
            if "\0" in event.value:  # jsonargparse asks whether a file of that name exists, and no name can hold it
                raise yaml.YAMLError("a config may not hold the character NUL")
            size += len(event.value) + 1
            sizes[event.anchor] = len(event.value) + 1
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, size))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            sizes[anchor] = size - before
        if size > _MOST_TEXT or len(opened) > _DEEPEST:
            raise yaml.YAMLError(
                f"a config may have {_MOST_TEXT} characters, aliases written out, and be nested {_DEEPEST} deep; "
                "this one exceeds that"
            )


set_loader(CONFIG_MODE, load_config, exceptions=(yaml.YAMLError,))
