"""Pages of HTML from templates of Jinja, which escape every text that comes from data.

All extend ``page.html.jinja``: they fill its blocks ``style`` and ``content``, and ``title`` is a value that it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jinja2


def page_of(
    template: str, content: Mapping[str, Any], filters: Mapping[str, Callable[..., Any]] | None = None
) -> bytes:
    """A template filled in, as the bytes of the page's file.

    Args:
        template: path of its file below this package.
        content: values by the names that it has for them; one that it names and does not get is an error.
        filters: its own, by name.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("detmix", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters or {}
    text = environment.get_template(template).render(content)
    return text.encode("utf-8", errors="replace")  # a command may hold bytes that are no text
