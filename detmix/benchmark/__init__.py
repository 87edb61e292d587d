"""What detmix costs, measured against what a user would write otherwise: one file for each part of a run."""

from .blend import measure_blend as measure_blend
from .comparison import BenchmarkReport as BenchmarkReport
from .comparison import Comparison as Comparison
from .comparison import TooLittle as TooLittle
from .dataset import measure_dataset as measure_dataset
from .evaluate import measure_evaluate as measure_evaluate
from .loader import measure_loader as measure_loader
from .sample import measure_sample as measure_sample
from .step import measure_step as measure_step
from .train import measure_train as measure_train
