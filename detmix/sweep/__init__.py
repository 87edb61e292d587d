"""Sweeps: one training config, several settings, several seeds; the only importer of optuna."""

from .. import posix

posix.require_posix(__name__)

from .estimate import estimate_run as estimate_run
from .outcome import States as States
from .plan import Plan as Plan
from .plan import make_plan as make_plan
from .queue import look_into as look_into
from .run import Interrupted as Interrupted
from .run import run_sweep as run_sweep
from .tables import plan_table as plan_table
from .tables import seconds_left as seconds_left
