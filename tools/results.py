"""Put finished sweeps into RESULTS.md, and tables of the main ones into README.md, so that the two cannot disagree.

python tools/results.py sweeps/base_shapes_objective   # keep this sweep, all of whose runs have ended, and write both
python tools/results.py                                # write both pages from the sweeps that are kept
python tools/results.py --check                        # say whether the pages hold what would be written

Of each sweep its sweep.json is kept in docs/experiments, without names of hosts, and its plot beside it. RESULTS.md
has a pair of marks for each, <!-- sweep NAME --> and <!-- end of sweep NAME -->, and README.md <!-- results --> and
<!-- end of results -->; what stands between them is written here, the rest by hand. Nothing is written if marks are
missing, or are there for a sweep that is not kept.
"""

from __future__ import annotations

import json
import re
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detmix.files import write_text
from detmix.sweep.markdown import arms_compared, fill, has_ended, measures_of, summary_table, sweep_section
from detmix.sweep.results import draw_comparison
from detmix.terminal import replace_unprintable, require_text

ROOT = Path(__file__).resolve().parents[1]
KEPT = Path("docs/experiments")
IN_README = {"shapes": "base_shapes_objective", "BCCD": "base_bccd_objective"}  # columns of its tables


def main() -> None:
    """Keep the sweeps that are named, and write or check the pages."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", nargs="*", type=Path, metavar="DIR", help="folders of finished sweeps")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is out of date")
    require_text(parser)
    options = parser.parse_args()
    replace_unprintable()
    try:
        new = {folder.name: finished_sweep(folder) for folder in options.sweeps}
        kept = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((ROOT / KEPT).glob("*.json"))}
        written = pages(kept | new)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    stale = [name for name, text in written.items() if (ROOT / name).read_text("utf-8") != text]
    if options.check:
        sys.exit(f"out of date: {', '.join(stale)}; python tools/results.py writes them anew" if stale else None)
    for name, content in new.items():
        keep(name, content)
    for name in stale:
        write_text(ROOT / name, written[name])
        print(f"{name} written")


def finished_sweep(folder: Path) -> dict[str, Any]:
    """A sweep's numbers, without names of hosts and lines of logs.

    Raises:
        ValueError: some of its runs have not ended.
        FileNotFoundError: there is no sweep.json.
    """
    content = json.loads((folder / "sweep.json").read_text("utf-8"))
    runs = content["runs"]
    left = [f"{run['arm']} with seed {run['seed']}" for run in runs if not has_ended(run)]
    if left:
        raise ValueError(f"{folder}: {len(left)} of {len(runs)} runs have not ended, the first is {left[0]}")
    content["runs"] = [{key: run[key] for key in run if key not in ("host", "lines")} for run in runs]
    return content


def pages(sweeps: Mapping[str, Any]) -> dict[str, str]:
    """The text of each page, as the sweeps make it.

    Raises:
        ValueError: a page lacks the marks of a sweep, or has those of one that is not kept.
    """
    results = (ROOT / "RESULTS.md").read_text("utf-8")
    gone = [name for name in re.findall(r"<!-- sweep (\S+) -->", results) if name not in sweeps]
    if gone:
        raise ValueError(f"RESULTS.md has marks of {', '.join(gone)}, and {KEPT} has no such sweep")
    for name, content in sweeps.items():
        results = _filled("RESULTS.md", results, f"sweep {name}", sweep_section(content, f"{KEPT}/{name}.png"))
    shown = {heading: sweeps[name] for heading, name in IN_README.items() if name in sweeps}
    readme = (ROOT / "README.md").read_text("utf-8")
    return {"RESULTS.md": results, "README.md": _filled("README.md", readme, "results", _summaries(shown))}


def _summaries(sweeps: Mapping[str, Any]) -> str:
    """A table for each measure, of the sweeps that were compared by it."""
    by: dict[str, dict[str, Any]] = {}
    for heading, content in sweeps.items():
        for measure in measures_of(content):
            by.setdefault(measure, {})[heading] = content
    return "\n\n".join(summary_table(contents, measure) for measure, contents in by.items())


def keep(name: str, content: Mapping[str, Any]) -> None:
    """Write a sweep's numbers and draw its plot."""
    kept = ROOT / KEPT / f"{name}.json"
    write_text(kept, json.dumps(content, indent=1) + "\n")
    draw_comparison(arms_compared(content, measures_of(content)[0])).savefig(kept.with_suffix(".png"), dpi=110)


def _filled(page: str, text: str, name: str, block: str) -> str:
    try:
        return fill(text, name, block)
    except ValueError as error:
        raise ValueError(f"{page}: {error}") from error


if __name__ == "__main__":
    main()
