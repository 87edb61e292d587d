"""Training with Lightning."""

from .. import posix

posix.require_posix(__name__)

from .artifacts import RunFiles as RunFiles
from .callbacks import MixBatches as MixBatches
from .callbacks import ProgressBar as ProgressBar
from .callbacks import Throughput as Throughput
from .cli import DetmixCLI as DetmixCLI
from .cli import cli_main as cli_main
from .data import DetectionData as DetectionData
from .mixing import ManifoldOptions as ManifoldOptions
from .mixing import MixupOptions as MixupOptions
from .models import build_detector as build_detector
from .module import DetectionModule as DetectionModule
from .splits import ShapesOptions as ShapesOptions
