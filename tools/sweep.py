r"""Train one config under several settings with several seeds, and tell what helped, by how much, how sure.

python tools/sweep.py --config configs/quickstart.yaml --set data.mixup.alpha=0,0.2,1.5 --seeds 5 --dry-run
python tools/sweep.py --config configs/quickstart.yaml --set data.mixup.alpha=0,0.2,1.5 --seeds 5 --jobs 2
python tools/sweep.py --config configs/bccd.yaml --set data.mixup.alpha=0,1.5 --set model.objective=weighted,pair
python tools/sweep.py --config configs/bccd.yaml --arms arms.yaml --baseline plain --trainer.max_epochs 12
python tools/sweep.py --config configs/bccd.yaml --arms arms.yaml --measures AP/Platelets AP    # a class before all

Every combination of the --set values is an arm; or --arms names a YAML file with arms of its own:

    arms:
      plain: {data.mixup: null}
      weighted: {model.objective: weighted}
      pair: {model.objective: pair}

Other options go to the trainer, in all arms. All settings are checked before the first run. Runs are done seed by
seed. The same command goes on with a sweep that was stopped or killed; what is finished is not done again, a higher
--seeds adds to it, and other --measures compare the same runs by other numbers. Typed on several hosts with the same
--output in a shared folder, or once for each GPU with another CUDA_VISIBLE_DEVICES, it shares the runs among them. A
run that fails is recorded, the others go on, and the exit status is 1.
"""

from __future__ import annotations

import shlex
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from detmix.sweep import (
    Interrupted,
    Plan,
    States,
    estimate_run,
    look_into,
    make_plan,
    plan_table,
    run_sweep,
    seconds_left,
)
from detmix.sweep.plan import MEASURES
from detmix.terminal import Parser, replace_unprintable, require_text

TRAIN = [sys.executable, str(Path(__file__).with_name("train.py"))]


def main() -> None:
    """Parse the command line, run the sweep, and print what came out."""
    parser = make_parser()
    require_text(parser)
    options, common = parser.parse_known_args()
    replace_unprintable()
    if options.jobs < 1:
        parser.error(f"--jobs must be 1 or more, got {options.jobs}")
    names = [options.config.stem, options.arms.stem] if options.arms else [options.config.stem, *options.grid]
    folder = options.output or Path("sweeps") / "_".join(name.partition("=")[0] for name in names)
    try:
        plan = make_plan(
            options.config,
            grid=options.grid,
            arms_file=options.arms,
            seeds=options.seeds,
            baseline=options.baseline,
            common=common,
            measures=options.measures,
        )
        if options.dry_run:
            show_plan(plan, look_into(folder, plan, retry=options.retry), options.jobs)
            return
        command = shlex.join(["python", *sys.argv])
        shown, states = run_sweep(plan, folder, train=TRAIN, command=command, jobs=options.jobs, retry=options.retry)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.number)
    Console().print(shown)
    ends = [state for state in states.values() if not isinstance(state, str)]
    failed = sum(not end.finished for end in ends)
    if failed:
        sys.exit(
            f"{failed} of {len(ends)} runs failed; {folder / 'sweep.html'} has their last lines, --retry repeats them."
        )


def show_plan(plan: Plan, states: States, jobs: int) -> None:
    """What would be trained, and for how long; where no run has finished, a few batches of the last arm are tried."""
    estimate = None
    if seconds_left(plan, states, jobs) is None:
        arm = list(plan.arms)[-1]
        with Console(stderr=True).status(f"Trying the first batches of {escape(arm)} ..."):
            estimate = estimate_run(plan, arm, TRAIN)
    Console().print(plan_table(plan, states, jobs, estimate))
    if estimate and estimate.lines:
        sys.exit("\n".join([f"The first batches of {estimate.arm} failed:", *estimate.lines]))


def make_parser() -> ArgumentParser:
    """The options, in the order in which one comes to them."""
    parser = Parser(description=__doc__, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("--config", type=Path, required=True, metavar="FILE", help="config file of tools/train.py")
    add(
        "--set",
        dest="grid",
        action="append",
        default=[],
        metavar="KEY=A,B,...",
        help="values of a setting; again for each key",
    )
    add("--arms", type=Path, metavar="FILE", help="named arms, instead of --set")
    add("--seeds", type=int, default=3, metavar="N", help="runs of each arm, with seeds 0 ... N-1 (default: 3)")
    add("--baseline", metavar="ARM", help="what the others are compared with (default: the first arm)")
    add(
        "--measures",
        nargs="+",
        default=MEASURES,
        metavar="NAME",
        help="accuracies in metrics.json that arms are compared by, the first before all (default: AP50 AP)",
    )
    add("--jobs", type=int, default=1, metavar="N", help="runs at a time, which share the cores (default: 1)")
    add("--output", type=Path, metavar="DIR", help="folder of the sweep (default: sweeps/<config>_<arms or keys>)")
    add("--retry", action="store_true", help="do runs again that have failed")
    add(
        "--dry-run",
        action="store_true",
        help="print the plan and the estimated time, after a few batches of an arm were tried",
    )
    return parser


if __name__ == "__main__":
    main()
