import io
import json
import tracemalloc
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from detmix.data import json_rows
from detmix.data.json_rows import read_rows

brackets = st.text(st.sampled_from('{}[]",:\\ aä'), max_size=6)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | brackets
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(brackets, inner, max_size=3), max_leaves=8
)
arrays = st.lists(st.dictionaries(brackets, values, max_size=3), max_size=5)
layouts = st.sampled_from(
    [{}, {"separators": (",", ":")}, {"indent": 1}, {"separators": (" ,", ":")}, {"ensure_ascii": False, "indent": 3}]
)


@st.composite
def files(draw):
    """A JSON object with the arrays ``a`` and ``b`` and members that are not wanted, in any order; and its text."""
    others = draw(st.lists(st.tuples(brackets.filter(lambda key: key != "a"), values), max_size=2))
    members = [("a", draw(arrays)), ("b", draw(arrays)), *others]
    content = dict(draw(st.permutations(members)))
    return content, json.dumps(content, **draw(layouts)).encode()


def read(text, window, kinds=("a", "b")):
    found = {key: [] for key in kinds}
    with patch.object(json_rows, "_WINDOW", window):
        for piece in read_rows(io.BytesIO(text), dict.fromkeys(kinds, dict)):
            assert piece.first == len(found[piece.section])
            found[piece.section] += piece.rows
    return found


@settings(max_examples=300, deadline=None)
@given(files(), st.integers(1, 80))
def test_the_rows_are_those_of_the_whole_file_wherever_it_is_cut(file, window):
    content, text = file
    assert read(text, window) == {"a": content["a"], "b": content["b"]}


@settings(max_examples=150, deadline=None)
@given(files(), st.integers(1, 80), st.data())
def test_a_file_that_is_cut_short_or_goes_on_is_refused(file, window, data):
    text = file[1]
    with pytest.raises(ValueError, match="wanted|ends within|not JSON|must be an array"):
        read(text[: data.draw(st.integers(0, len(text) - 1))], window)
    with pytest.raises(ValueError, match="wanted the end of the file, got"):
        read(text + b" ,", window)


@pytest.mark.parametrize("between", [", ", ",\n", " , "])
@pytest.mark.parametrize("row", ['{"id": 1}', '{"parts": [{"id": 1}, {"id": 2}], "name": "}, {"}'])
def test_rows_come_a_window_at_a_time_in_any_layout(between, row):
    text = f'{{"a": [{between.join([row] * 3000)}]}}'.encode()
    with patch.object(json_rows, "_WINDOW", 2000):
        pieces = [piece.rows for piece in read_rows(io.BytesIO(text), {"a": dict})]
    assert sum(pieces, []) == [json.loads(row)] * 3000
    assert max(len(rows) for rows in pieces) * len(row) <= 2 * 2000


def scanned(text, window):
    """How many bytes are looked at one by one, and what is read."""
    scan, lengths = json_rows._Nesting.boundaries, []

    def counted(nesting, part):
        lengths.append(len(part))
        return scan(nesting, part)

    with patch.object(json_rows._Nesting, "boundaries", counted):
        return sum(lengths), read(text, window)


def test_text_is_scanned_once_however_many_keys_are_passed_over():
    members = ",".join(f'"k{i}":[{i}, 0]' for i in range(100_000))
    text = f'{{"a":[{{}}],{members},"b":[{{}}]}}'.encode()
    looked_at, found = scanned(text, 1 << 14)
    assert found == {"a": [{}], "b": [{}]}
    assert looked_at < 3 * len(text)


LONG = {
    "escaped quotes": '"' + r"\"" * 100_000 + '"',
    "backslashes": '"' + r"\\" * 100_000 + '"',
    "odd parts": '"' + r"\u0041\\\"" * 30_000 + '"',
    "brackets": "[" + "[[]]," * 40_000 + "0]",
    "digits": "1" * 200_000,
}


@pytest.mark.parametrize("kind", LONG)
def test_a_long_value_is_scanned_once_and_not_held_where_it_is_not_needed(kind):
    text = f'{{"a":[{{}}],"other":{LONG[kind]},"b":[{{}}]}}'.encode()
    tracemalloc.start()
    try:
        looked_at, found = scanned(text, 1 << 14)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert found == {"a": [{}], "b": [{}]}
    assert looked_at < 1.1 * len(text)


@pytest.mark.parametrize("kind", ["escaped quotes", "backslashes", "odd parts", "brackets"])
def test_a_row_of_a_long_value_is_scanned_once(kind):
    text = f'{{"a":[{{"x":{LONG[kind]}}}],"b":[]}}'.encode()
    looked_at, found = scanned(text, 1 << 14)
    assert found == {"a": [{"x": json.loads(LONG[kind])}], "b": []}
    assert looked_at < 1.1 * len(text)


@pytest.mark.parametrize("text", ['{"other": [', '{"a": ['])
def test_what_nests_without_end_is_refused_at_once(text):
    looked_at = []

    class File(io.BytesIO):
        def read(self, size=-1):
            looked_at.append(size)
            return super().read(size) or b"[" * size

    with pytest.raises((ValueError, RecursionError), match="nested too deeply|recursion"):
        list(read_rows(File(text.encode()), {"a": dict}))
    assert len(looked_at) < 5


@pytest.mark.parametrize("window", [7, 100, 300])
def test_a_key_may_lie_at_the_edge_of_a_window(window):
    with patch.object(json_rows, "_LONGEST_KEY", 50):
        for filling in range(3 * window):
            text = f'{{"other":"{"x" * filling}","a" : [{{}}], "b":[]}}'.encode()
            assert read(text, window) == {"a": [{}], "b": []}
        with pytest.raises(ValueError, match="wanted a key in quotes and a colon at byte 1"):
            read(f'{{"{"x" * 400}": 1}}'.encode(), window)


class Row(Struct):
    id: int


@pytest.mark.parametrize("window", [30, 10_000])
def test_rows_are_numbered_through_the_array_in_errors(window):
    rows = ", ".join(f'{{"id": {i if i != 123 else "null"}}}' for i in range(200))
    with (
        patch.object(json_rows, "_WINDOW", window),
        pytest.raises(ValueError, match=r"^a\[123\]: Expected `int`, got `null`"),
    ):
        list(read_rows(io.BytesIO(f'{{"a": [{rows}]}}'.encode()), {"a": Row}))


@pytest.mark.parametrize("window", [30, 10_000])
def test_what_is_not_json_is_named_by_its_place_in_the_file(window):
    rows = ", ".join(f'{{"id": {i if i != 123 else "!"}}}' for i in range(200))
    text = f'{{"a": [{rows}]}}'
    with (
        patch.object(json_rows, "_WINDOW", window),
        pytest.raises(ValueError, match=rf"^not JSON at byte {text.index('!')}, in a: Expecting value"),
    ):
        list(read_rows(io.BytesIO(text.encode()), {"a": Row}))


def test_numbers_that_are_not_json_are_null_and_do_not_spoil_the_rest():
    text = b'{"a": [{"x": NaN}, {"x": 1.5}], "other": [NaN, Infinity], "b": [{"x": -Infinity}]}'
    for window in (1, 10, 1000):
        assert read(text, window) == {"a": [{"x": None}, {"x": 1.5}], "b": [{"x": None}]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "the key 'a' is missing"),
        ('{"a": []}', "the key 'b' is missing"),
        ('{"a": [], "b": [], "a": []}', "the key 'a' occurs twice"),
        ('{"a": [], "b": {}}', r"b must be an array, got '\{'"),
        ('{"a": [], "b"', "wanted a key in quotes and a colon at byte 10"),
        ('{"a": [], "b":', "b must be an array, got the end of the file"),
        ('{"a": [}, "b": []}', r"wanted ',' or '\]', got '\}' at byte 7"),
        ('{"a": [{}] "b": []}', r"wanted ',' or '\}', got '\"' at byte 11"),
        ('{"a": [{},], "b": []}', r"(wanted a row, a\[1\], got '\]'|not JSON) at byte (9|10)"),
        ('{"other": 1', "the file ends within a value that is not needed"),
        ('{"a": [{"x": 1}, {"x": [', r"the file ends within a\[[01]\] or a later row"),
        ('{"a": [1], "b": []}', r"a\[0\]: Expected `object`, got `int`"),
    ],
)
def test_what_is_wrong_is_said(text, message):
    for window in (1, 7, 1000):
        with pytest.raises(ValueError, match=message):
            read(text.encode(), window)
