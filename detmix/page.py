"""Pages of HTML from templates of Jinja, which escape every text that comes from data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

import jinja2


def page_of(
    package: str, template: str, content: Mapping[str, Any], filters: Mapping[str, Callable[..., Any]] | None = None
) -> bytes:
    """A template filled in, as the bytes of the page's file.

    Args:
        package: name of the package that the template lies in.
        template: name of its file.
        content: values by the names that it has for them; one that it names and does not get is an error.
        filters: its own, by name.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= filters or {}
    text = environment.from_string(files(package).joinpath(template).read_text("utf-8")).render(content)
    return text.encode("utf-8", errors="replace")  # a command may hold bytes that are no text
