import ast
import graphlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import detmix

from .conftest import ROOT

PUBLIC = {
    "ManifoldMixup",
    "MixupBatch",
    "MixupDataset",
    "MixupIterable",
    "SeededDataset",
    "check_target",
    "collate",
    "cutmix_pair",
    "cutout",
    "keep_boxes_exact",
    "losses_and_detections",
    "mix_pair",
    "object_keys",
    "sample_lambda",
    "sample_region",
    "unweight_losses",
    "weight_losses",
}


def test_public_names():
    import types

    names = {n for n, v in vars(detmix).items() if not n.startswith("_") and not isinstance(v, types.ModuleType)}
    assert names == PUBLIC


def test_import_is_light():
    heavy = ("lightning", "matplotlib.pyplot", "albumentations", "webdataset", "datasets", "numba")
    code = f"import sys, detmix, detmix.data, detmix.evaluation; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


LIBRARY = ["", ".analysis", ".data", ".detectors", ".evaluation", ".figures", ".reporting"]


@pytest.mark.parametrize("part", ["training", "training.predict", "sweep", "sweep.statistics", "benchmark"])
def test_where_there_are_no_posix_locks_the_library_is_imported_and_the_trainer_says_what_it_needs(part):
    modules = [f"detmix{name}" for name in LIBRARY] if part == "training" else []
    code = "import importlib, sys; sys.modules['fcntl'] = None; [importlib.import_module(n) for n in sys.argv[1:]]"
    result = subprocess.run([sys.executable, "-c", code, *modules, f"detmix.{part}"], capture_output=True, text=True)
    *_, told = result.stderr.splitlines()
    needed = "sweep" if part.startswith("sweep") else "training"
    assert told.startswith(f"ImportError: detmix.{needed} needs Linux or macOS, for locks on files and for signals; on")


def imports_of(path):
    """The files of the package that a file of it imports."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for found in (base.with_suffix(".py"), base / "__init__.py", *(base / f"{n.name}.py" for n in node.names)):
                if found.is_file():
                    yield found


def test_imports_go_in_no_circle():
    files = [path for path in (ROOT / "detmix").rglob("*.py") if path.name != "__init__.py"]
    graph = {path: {found for found in imports_of(path) if found.name != "__init__.py"} for path in files}
    assert sum(map(len, graph.values())) > len(files)
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


def named_in_the_design():
    """The files that docs/design.md names in its tree: those of a folder beside it."""
    page = (ROOT / "docs" / "design.md").read_text("utf-8")
    entries = dict(re.findall(r"^    (detmix/\S+) +(.+\n(?: {10,}.+\n)*)", page, re.MULTILINE))
    for name, text in entries.items():
        inside = re.findall(r"(?<![\w/])[\w.]+\.(?:py|jinja)\b", text) if name.endswith("/") else [""]
        yield from (Path(name) / file for file in inside)


def test_the_design_names_each_file_once_and_no_other():
    files = [path.relative_to(ROOT) for path in (ROOT / "detmix").rglob("*.*") if path.suffix in (".py", ".jinja")]
    assert sorted(named_in_the_design()) == sorted(path for path in files if path.name != "__init__.py")


def test_every_template_is_installed():
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    installed = {file for kind in setup["package-data"]["detmix"] for file in (ROOT / "detmix").glob(kind)}
    assert set((ROOT / "detmix").rglob("*.jinja")) <= installed


def test_outside_of_the_trainer_lightning_is_imported_by_what_runs_it():
    imports = re.compile(r"^\s*(?:import|from) lightning\b", re.MULTILINE)
    files = [path for path in (ROOT / "detmix").rglob("*.py") if imports.search(path.read_text("utf-8"))]
    others = {str(path.relative_to(ROOT)) for path in files if path.parent.name != "training"}
    assert others == {"detmix/sweep/estimate.py", "detmix/benchmark/train.py"}
