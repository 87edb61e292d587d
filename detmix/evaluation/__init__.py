"""Evaluation by the COCO and VOC rules: predictions and ground truth in, numbers and curves out."""

from .coco import CocoResult as CocoResult
from .coco import evaluate_coco as evaluate_coco
from .compare import Difference as Difference
from .compare import compare_coco as compare_coco
from .compare import compare_voc as compare_voc
from .curves import NO_OBJECTS as NO_OBJECTS
from .curves import Curve as Curve
from .fates import Fate as Fate
from .fates import Fates as Fates
from .fates import find_fates as find_fates
from .keypoints import oks_sigmas as oks_sigmas
from .keypoints import with_keypoints as with_keypoints
from .kit_files import read_kit_files as read_kit_files
from .mistakes import Confusion as Confusion
from .mistakes import ImageMistakes as ImageMistakes
from .mistakes import Mistakes as Mistakes
from .mistakes import find_mistakes as find_mistakes
from .results import coco_results as coco_results
from .voc import VocResult as VocResult
from .voc import evaluate_voc as evaluate_voc
from .voc_folder import read_voc_folder as read_voc_folder
