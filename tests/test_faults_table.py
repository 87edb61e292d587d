"""The tables of docs/faults.md: each row names tests that are there, and that are not passed over."""

import ast
import itertools
import re
from pathlib import Path

SKIPS = re.compile(r"\.skip|importorskip|mark\.gpu|\bbrowser\b")


def named_in(row):
    """The tests in the last column: whether it is said to need a GPU, file, name, and whether that is its beginning."""
    for on_gpu, file, name, dots in re.findall(r"(on a GPU )?`(?:(\w+\.py)::)?(test_\w+)(\.\.\.)?`", row):
        yield bool(on_gpu), file or "test_training_faults.py", name, bool(dots)


def functions_of(file):
    """The text of each test in a file, by name."""
    body = ast.parse(file.read_text()).body
    return {node.name: ast.unparse(node) for node in body if isinstance(node, ast.FunctionDef)}


def test_each_row_of_the_table_names_a_test_that_is_there_and_runs_without_a_gpu():
    folder = Path(__file__).parent
    text = (folder.parent / "docs" / "faults.md").read_text()
    tables = [part.split("\n\n")[0].splitlines() for part in text.split("| --- | --- | --- |\n")[1:]]
    assert [len(rows) > 5 for rows in tables] == [True, True]
    for row in itertools.chain(*tables):
        named = list(named_in(row.rsplit("|", 2)[1]))
        assert any(not on_gpu for on_gpu, *_ in named), row
        for on_gpu, file, name, begins in named:
            tests = functions_of(folder / file)
            found = [test for test in tests if test == name or (begins and test.startswith(name))]
            assert len(found) == 1, f"{file}::{name} is the name of {len(found)} tests"
            assert bool(SKIPS.search(tests[found[0]])) == on_gpu, f"{file}::{name} may be skipped, or is said to be"
