r"""Write the report of a run anew: with the visibility curve once it is measured, or where training was cut off.

python tools/report.py runs/quickstart
python tools/analyze.py visibility --config runs/quickstart/config.yaml --model mixup=runs/quickstart/model.pt \
    --json runs/quickstart/visibility.json && python tools/report.py runs/quickstart

The page is made of what lies in the run's folder and of its validation data, where the folder's config.yaml says.
"""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

from detmix.terminal import replace_unprintable, require_text, tell
from detmix.training.run_report import report_run


def main() -> None:
    """Parse the command line, and name the page."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run of tools/train.py")
    require_text(parser)
    options = parser.parse_args()
    replace_unprintable()
    try:
        page = report_run(options.run)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        parser.error(str(error))
    tell(f"See {page}")


if __name__ == "__main__":
    main()
