"""Sweeps as Markdown: numbers worked out by hand, and the project's own pages."""

import json
import runpy
import shutil
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detmix.sweep.markdown import fill, summary_table, sweep_section

from .conftest import ROOT


def content(arms, *, failed=()):
    """A sweep.json of these AP50 by arm, one for each seed; AP is half of it."""
    runs = [
        {"arm": arm, "seed": seed, "kind": "finished", "seconds": 60.0, "metrics": {"AP50": value, "AP": value / 2}}
        for arm, values in arms.items()
        for seed, value in enumerate(values)
    ]
    runs += [{"arm": arm, "seed": 9, "kind": "diverged", "seconds": 5.0, "metrics": {}} for arm in failed]
    return {
        "command": "python tools/sweep.py --config a.yaml",
        "machine": {"processor": "Z80, 1 cores", "torch": "9.9"},
        "definition": {"baseline": next(iter(arms)), "arms": {arm: {} for arm in arms}},
        "runs": runs,
    }


def test_a_section_holds_command_tables_words_plot_and_cost():
    section = sweep_section(content({"plain": [0.5, 0.6], "pair": [0.52, 0.64]}, failed=["pair"]), "p.png")
    assert "| AP50 | seeds | mean | spread | difference | 95 % interval | range of seeds |" in section
    assert "    python tools/sweep.py --config a.yaml\n" in section
    assert "| plain (baseline) | 2 | 55.0 | 7.1 | - | - | - |" in section
    # differences 2 and 4 points: mean 3, spread 1.414, times 12.706 / sqrt(2)
    assert "| pair | 2 of 3 | 58.0 | 8.5 | +3.0 | -9.7 to +15.7 | +2.0 to +4.0 |" in section
    assert "| pair | 2 of 3 | 29.0 | 4.2 | +1.5 | -4.9 to +7.9 | +1.0 to +2.0 |" in section
    assert "Nothing differs clearly from plain in AP50: the most is pair, +3.0 points" in section
    assert "![AP50 by arm, means in percent: plain 55.0; pair 58.0.](p.png)" in section
    assert "4 of 5 runs finished, 0:01:00 each (median), 0:04:00 in all. Z80, 1 cores, torch 9.9." in section


def test_a_section_compares_the_arms_beside_the_baseline_too():
    arms = {"plain": [0.5, 0.6], "unweighted": [0.52, 0.61], "weighted": [0.55, 0.64], "pair": [0.5, 0.66]}
    lines = sweep_section(content(arms), "p.png").splitlines()
    row = lines.index("| AP50, row minus column | unweighted | weighted |")
    # differences 3 and 3 points; -2 and 5: mean 1.5, spread 4.95, times 12.706 / sqrt(2); -5 and 2
    assert lines[row + 2] == "| weighted | +3.0 (+3.0 to +3.0) |  |"
    assert lines[row + 3] == "| pair | +1.5 (-43.0 to +46.0) | -1.5 (-46.0 to +43.0) |"
    assert any("of the 12 that are shown" in line for line in lines)


def test_a_section_of_six_seeds_has_the_interval_by_bootstrap():
    six = [0.5, 0.52, 0.51, 0.53, 0.5, 0.55]
    section = sweep_section(content({"plain": six, "pair": [value + 0.01 for value in six]}), "p.png")
    assert "95 % interval | by bootstrap |" in section
    assert "| +1.0 | +1.0 to +1.0 | +1.0 to +1.0 |" in section


def test_a_summary_has_a_row_for_each_arm_and_columns_for_each_sweep():
    table = summary_table(
        {"shapes": content({"plain": [0.5], "pair": [0.4]}), "BCCD": content({"plain": [0.9]})}, "AP50"
    )
    assert table.splitlines() == [
        "| arm | AP50, shapes | difference | AP50, BCCD | difference |",
        "| --- | --- | --- | --- | --- |",
        "| plain | 50.0 ± - |  | 90.0 ± - |  |",
        "| pair | 40.0 ± - | -10.0 (-) |  |  |",
    ]
    assert "| pair | 40.0 ± - (1 of 2 seeds, 1 diverged) |" in summary_table(
        {"shapes": content({"plain": [0.5], "pair": [0.4]}, failed=["pair"])}, "AP50"
    )


def test_a_name_with_a_bar_stays_in_its_cell():
    table = summary_table({"shapes": content({"a|b": [0.5]})}, "AP50")
    assert {line.count("|") for line in table.splitlines()} == {4}
    assert "| a&#124;b | 50.0 ± - |" in table


@given(old=st.text(), block=st.text())
def test_a_block_replaces_what_stands_between_its_marks(old, block):
    page = "before <!-- a --><!-- end of a --> after"
    filled = fill(page, "a", block)
    assert filled == f"before <!-- a -->\n\n{block}\n\n<!-- end of a --> after"
    if "<!--" not in block + old:
        assert fill(fill(page, "a", old), "a", block) == filled


@pytest.mark.parametrize("text", ["", "<!-- a -->", "<!-- end of a --><!-- a -->", "<!-- a --><!-- end of a -->" * 2])
def test_marks_that_are_missing_or_there_twice_are_an_error(text):
    with pytest.raises(ValueError, match="wanted the marks <!-- a -->"):
        fill(text, "a", "block")


def test_the_pages_of_this_project_hold_what_its_sweeps_say():
    subprocess.run([sys.executable, ROOT / "tools" / "results.py", "--check"], check=True, cwd=ROOT)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Call the tool in a made-up repository whose pages have marks for the sweeps named; give all its files."""
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "results.py", tmp_path / "tools")
    (tmp_path / "README.md").write_text("<!-- results --><!-- end of results -->")

    def run(*arguments, marks=()):
        (tmp_path / "RESULTS.md").write_text(
            "".join(f"<!-- sweep {name} --><!-- end of sweep {name} -->" for name in marks)
        )
        monkeypatch.setattr(sys, "argv", ["tools/results.py", *arguments])
        runpy.run_path(str(tmp_path / "tools" / "results.py"), run_name="__main__")

    return run


def write_sweep(folder, **changed):
    folder.mkdir()
    sweep = content({"plain": [0.5, 0.6], "pair": [0.52, 0.64]})
    sweep["runs"][0] |= {"host": "a_host", "lines": []} | changed
    (folder / "sweep.json").write_text(json.dumps(sweep))
    return str(folder)


def test_a_finished_sweep_is_kept_without_hosts_and_put_between_its_marks(results, tmp_path):
    results(write_sweep(tmp_path / "base_shapes_objective"), marks=["base_shapes_objective"])
    kept = tmp_path / "docs/experiments/base_shapes_objective.json"
    assert "a_host" not in kept.read_text()
    assert kept.with_suffix(".png").is_file()
    assert "| pair | 2 | 58.0 |" in (tmp_path / "RESULTS.md").read_text()
    assert "| pair | 58.0 ± 8.5 |" in (tmp_path / "README.md").read_text()


def test_each_measure_has_its_table_of_the_sweeps_that_were_compared_by_it(results, tmp_path):
    folders = [write_sweep(tmp_path / f"base_{name}_objective") for name in ("shapes", "bccd")]
    file = tmp_path / "base_bccd_objective" / "sweep.json"
    sweep = json.loads(file.read_text())
    sweep["definition"]["measures"] = ["AP"]
    file.write_text(json.dumps(sweep))
    results(*folders, marks=["base_shapes_objective", "base_bccd_objective"])
    readme = (tmp_path / "README.md").read_text()
    assert "| arm | AP50, shapes | difference |\n" in readme
    assert "| arm | AP, shapes | difference | AP, BCCD | difference |\n" in readme
    of_bccd = (tmp_path / "RESULTS.md").read_text().partition("<!-- sweep base_bccd_objective -->")[2]
    assert "| AP | seeds |" in of_bccd
    assert "AP50" not in of_bccd


def test_a_sweep_without_marks_is_refused_before_anything_is_written(results, tmp_path, capsys):
    with pytest.raises(SystemExit):
        results(write_sweep(tmp_path / "new"))
    assert "RESULTS.md: wanted the marks <!-- sweep new --> and <!-- end of sweep new -->" in capsys.readouterr().err
    assert not (tmp_path / "docs").exists()


@pytest.mark.parametrize("kind", ["waiting", "running"])
def test_a_sweep_that_has_not_ended_is_refused_before_anything_is_written(kind, results, tmp_path, capsys):
    with pytest.raises(SystemExit):
        results(write_sweep(tmp_path / "new", kind=kind), marks=["new"])
    assert "1 of 4 runs have not ended, the first is plain with seed 0" in capsys.readouterr().err
    assert not (tmp_path / "docs").exists()


def test_marks_of_a_sweep_that_is_gone_are_noticed(results, capsys):
    with pytest.raises(SystemExit):
        results("--check", marks=["gone"])
    assert "RESULTS.md has marks of gone, and docs/experiments has no such sweep" in capsys.readouterr().err


def test_a_check_of_a_new_sweep_writes_nothing(results, tmp_path):
    with pytest.raises(SystemExit, match=r"out of date: RESULTS\.md"):
        results(write_sweep(tmp_path / "new"), "--check", marks=["new"])
    assert not (tmp_path / "docs").exists()


def test_every_experiment_and_data_set_has_its_place_in_the_results():
    results = (ROOT / "RESULTS.md").read_text("utf-8")
    for file in (ROOT / "configs" / "experiments").glob("*.yaml"):
        assert f"configs/experiments/{file.name}" in results
