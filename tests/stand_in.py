"""A stand-in for the trainer that takes milliseconds, and sweeps with it."""

import csv
import sys
import time
from pathlib import Path

from detmix.sweep import make_plan, run_sweep

STAND_IN = """
import json, os, pathlib, sys, time
options = dict(text[2:].partition("=")[::2] for text in sys.argv[2:])
folder, seed = pathlib.Path(options["runs"], options["name"]), int(options["seed_everything"])
place = pathlib.Path(os.environ["STAND_IN"])
with (place / "begun").open("a") as begun:
    begun.write(options["name"] + "\\n")
(place / "pid").write_text(str(os.getpid()))
while (place / "hold").exists():
    time.sleep(0.01)
objective = options.get("model.objective")
cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 0
print("cores", cores, "resume" if "resume" in options else "")
print("lr", pathlib.Path(options["config"]).read_text().partition("lr: ")[2][:5])
fault = {"unweighted": (place / "fault").read_text() if (place / "fault").exists() else ""}.get(objective, "")
if fault == "kill":
    os.kill(os.getpid(), 9)
if fault:
    sys.exit(fault)
ap = {"weighted": 0.50, "pair": 0.52 + 0.002 * seed, "unweighted": 0.48}[objective] + 0.01 * seed
folder.mkdir(parents=True, exist_ok=True)
metrics = {"AP": ap, "AP50": ap + 0.3, "segm/AP": 1 - ap, "APs": -1.0, "loss": 1.5}
(folder / "metrics.json").write_text(json.dumps(metrics))
"""


OF_PLAN = {"grid", "baseline", "measures"}
GRID = ["model.objective=weighted,pair,unweighted"]


def begun(folder):
    """The runs of a sweep that the stand-in has begun, by then."""
    file = folder.parent / "begun"
    return file.read_text().split() if file.exists() else []


def rows(folder):
    with (folder / "sweep.csv").open() as lines:
        return list(csv.DictReader(lines))


def wait_until(condition):
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def sweeps_in(folder):
    """What runs a sweep of three arms with the stand-in, and gives its folder."""
    (folder / "stand_in.py").write_text(STAND_IN)

    def run(seeds=2, **options):
        of_plan = {"grid": GRID} | {name: options.pop(name) for name in OF_PLAN & options.keys()}
        plan = make_plan(Path("configs/quickstart.yaml"), seeds=seeds, **of_plan)
        train = [sys.executable, "-S", str(folder / "stand_in.py")]
        run_sweep(plan, folder / "sweep", train=train, command="python tools/sweep.py", **options)
        return folder / "sweep"

    return run
