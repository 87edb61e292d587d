"""YAML of configs, as jsonargparse reads it, within bounds."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from textwrap import dedent
from typing import Any

import yaml
from jsonargparse import ArgumentParser, get_loader, set_loader

CONFIG_MODE = "bounded_yaml"  # the parser_mode for all parsers of configs
# in the saved config of a run beside data, model, trainer and seed: what none but the trainer has a use for
RUN_OPTIONS = ("name", "runs", "resume", "checkpoint_every", "best_by", "ckpt_path", "weights_only", "verbose")

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MERGE = "tag:yaml.org,2002:merge"  # of the key <<, which may stand several times
_MOST_TEXT = 1_000_000  # characters of a config, its aliases written out
_DEEPEST = 50  # brackets and indentations around a value

# what it says of a setting in a config, and on the command line, that is unknown
_UNKNOWN = re.compile(
    r"(?:Group '(?P<group>[\w.]+)' )?(?:^Option '|does not accept option '|unrecognized arguments: --)(?P<name>[\w.-]+)"
)
_FEW = 2  # settings of one name in different sections
_ALIKE = 0.75  # of two names, by difflib's ratio: one or two slips, and not another setting of the same section

# what jsonargparse says of a wrong value in a group of settings that may be null
_IN_A_GROUP = re.compile(
    r"""Parser key "(?P<group>[\w.]+)":
(?:\n  - Expected a path .*\n  - |  )Does not validate against any of the Union subtypes
  Subtypes: \[<class '[\w.]+'>, <class 'NoneType'>\]
  Errors:
    - Problem with given class_path '[\w.]+':
(?P<problem>(?:        .*\n)+)    - Expected a <class 'NoneType'>
"""
)


# and of a text in the place of such a group
_NO_GROUP = re.compile(
    r'Parser key "(?P<group>[\w.]+)":\n+  - Expected a path but (?P<value>[^{\n]*?) either not accessible'
)


def plain_error(message: str, groups: Mapping[str, Sequence[str]]) -> str:
    """The error of jsonargparse for a setting in a group as it is for one outside: without what else the group may be.

    Args:
        message: of jsonargparse, which is left as it is if it is another one.
        groups: names of the settings of each group, by its key.
    """
    found = _NO_GROUP.match(message)
    if found is not None and found["group"] in groups:
        names = ", ".join(groups[found["group"]])
        return f"{found['group']}: wanted null, a file or settings by their names, {names}; got {found['value']!r}"
    found = _IN_A_GROUP.match(message)
    if found is None:
        return message
    group, problem = found["group"], dedent(found["problem"]).rstrip()
    if problem.startswith("Option") and group in groups:
        return f"{group}: {problem.partition(';')[0]}; there are {', '.join(groups[group])}"
    inner = 'Parser key "'
    return f"{inner}{group}.{problem.removeprefix(inner)}" if problem.startswith(inner) else f"{group}: {problem}"


def with_suggestion(message: str, parser: ArgumentParser, *others: str) -> str:
    """The error of a parser; of a setting that it does not know, with the one that is spelled most like it.

    Args:
        message: of jsonargparse.
        parser: whose it is.
        others: settings that the parser knows within others.
    """
    found = _UNKNOWN.search(message)
    if found is None or "; did you mean " in message:  # a parser that raises its errors may pass them through again
        return message
    name, known = ".".join(filter(None, found.groups())), [*_settings_of(parser), *others]
    if name in known:
        return f"{message}; it belongs behind the subcommand"
    close = _elsewhere(name, known) or _most_alike(name, known)
    return f"{message}; did you mean {' or '.join(close)}?" if close else message


def _elsewhere(name: str, known: Sequence[str]) -> list[str]:
    """The settings of that name in other sections, if they are few."""
    found = [setting for setting in known if setting.rpartition(".")[2] == name.rpartition(".")[2]]
    return found if len(found) <= _FEW else []


def _most_alike(name: str, known: Sequence[str]) -> list[str]:
    """The setting that is spelled most like it, one as deep in its section before others; none if none is alike."""
    as_deep = [setting for setting in known if setting.count(".") == name.count(".")]
    found = (difflib.get_close_matches(name, names, n=1, cutoff=_ALIKE) for names in (as_deep, known))
    return next(filter(None, found), [])


def _settings_of(parser: ArgumentParser) -> Iterator[str]:
    """Names of the settings that a parser and those of its subcommands know."""
    for action in parser._actions:
        yield action.dest
        subcommands = action.choices if isinstance(action.choices, Mapping) else {}
        for subparser in subcommands.values():
            yield from _settings_of(subparser)


def load_config(text: str, path: str | None = None) -> Any:
    """The values of a YAML text.

    Aliases can make a short text stand for one that fills any memory, and deep nesting ends in jsonargparse as an error
    without a word of the file; both are refused.

    Args:
        text: a config, or one value of a command line.
        path: the file that the text is a config of, for the message; jsonargparse gives an empty one for a config
            that is none, and None for a value.

    Raises:
        yaml.YAMLError: it is not YAML, or of more than a million characters with its aliases written out, or nested
            more than fifty deep, or holds the character NUL, or a number or a date that is none; or a config has a
            key twice, no settings, the key ``config`` or ``data.run_seed``, or a section that is none. The file is
            named.
    """
    try:
        _require_bounded(text)
        if path is not None:
            require_single_keys(text)
        content = get_loader("yaml")(text)
        if path is not None:
            _require_config(content, path)
    except Exception as error:  # yaml raises what Python does for a number or a date
        what = "" if isinstance(error, yaml.YAMLError) else "a number or a date in it cannot be read: "
        raise yaml.YAMLError(f"{path}: {what}{error}" if path else f"{what}{error}") from error
    return content


def _require_config(content: Any, path: str) -> None:
    """Refuse what jsonargparse does not, and stumbles over later."""
    if not isinstance(content, dict):
        if path:
            found = "nothing" if content is None else type(content).__name__
            raise yaml.YAMLError(f"a config has settings by their names, and this file has {found}")
        return
    if "config" in content:
        raise yaml.YAMLError("a config has no key 'config': pass --config once for each file")
    for section in ("data", "model", "trainer"):
        if not isinstance(content.get(section, {}), (dict, str)):
            raise yaml.YAMLError(f"{section} has no settings by their names")
    if isinstance(content.get("data"), dict) and "run_seed" in content["data"]:
        raise yaml.YAMLError("data.run_seed follows seed_everything: set that")


def _require_bounded(text: str) -> None:
    sizes: dict[str | None, int] = {}  # of what has an anchor, in characters
    opened: list[tuple[str | None, int]] = []  # collections that are not closed yet: anchor, size before it
    size = 0
    for event in yaml.parse(text, _LOADER):
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
            size += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            sizes[anchor] = size - before
        if size > _MOST_TEXT or len(opened) > _DEEPEST:
            raise yaml.YAMLError(
                f"a config may have {_MOST_TEXT} characters, aliases written out, and be nested {_DEEPEST} deep; "
                "this one exceeds that"
            )


def require_single_keys(text: str) -> None:
    """Refuse a key that stands twice among the same settings of a file: yaml takes the last one, without a word.

    Args:
        text: YAML that ``load_config`` takes.

    Raises:
        yaml.YAMLError: a key does; both lines are told.
    """
    seen: set[int] = set()
    left = [yaml.compose(text, _LOADER)]
    while left:
        node = left.pop()
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(id(node))  # an alias is the node itself
        if isinstance(node, yaml.MappingNode):
            _require_single_names([key for key, _ in node.value])
            left += [value for _, value in node.value]
        else:
            left += node.value


def _require_single_names(keys: Sequence[yaml.Node]) -> None:
    lines: dict[tuple[str, str], int] = {}  # in which a key stands
    for key in keys:
        if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in lines:
                raise yaml.YAMLError(f"{key.value!r} stands twice, in line {lines[name]} and in line {line}")
            lines[name] = line


set_loader(CONFIG_MODE, load_config, exceptions=(yaml.YAMLError,))
