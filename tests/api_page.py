"""The page of public names, docs/api.md, as the docstrings have it: ``python -m tests.api_page > docs/api.md``."""

import importlib
import inspect
from pathlib import Path

from .conftest import ROOT

PACKAGES = (
    "detmix",
    *(f"detmix.{name}" for name in ("data", "evaluation", "analysis", "figures", "training", "sweep")),
)
ALONE = {  # imported from their own module
    "detmix.data": {"detmix.data.transforms": ("Albumentations", "Mixup")},
    "detmix.training": {"detmix.training.trained": ("open_trained",)},
}

HEAD = """# Public names

What each does, in a line. `help(detmix.mix_pair)`, and the file that a name links to, have arguments, shapes, dtypes,
units and errors. The target that all of them pass on is described in [detmix/targets.py](../detmix/targets.py);
`Letters` at the head of a file are the dimensions in its docstrings. Names that are not here are internal, and may
change.
"""


def api_page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *(part for name in PACKAGES for part in _section(name))])


def _section(name: str) -> list[str]:
    package = importlib.import_module(name)
    first = str(package.__doc__).partition("\n")[0]
    rows = [_row(key, getattr(package, key)) for key in _public(package)]
    for module, keys in ALONE.get(name, {}).items():
        rows += [_row(key, getattr(importlib.import_module(module), key), f"{module}.") for key in keys]
    return [f"## {name}\n", f"{first}\n", "| | |", "| --- | --- |", *rows, ""]


def _public(package: object) -> list[str]:
    """Its classes and functions, in alphabetical order; types and constants are told of where they are taken."""
    found = inspect.getmembers(package, lambda value: inspect.isclass(value) or inspect.isfunction(value))
    return sorted((key for key, _ in found if not key.startswith("_")), key=str.lower)


def _row(key: str, value: object, prefix: str = "") -> str:
    source = Path(str(inspect.getsourcefile(value))).relative_to(ROOT)  # type: ignore[arg-type]  # a class or function
    said = str(inspect.getdoc(value)).partition("\n")[0].replace("``", "`")
    return f"| [`{prefix}{key}`](../{source.as_posix()}) | {said} |"


if __name__ == "__main__":
    print(api_page(), end="")
