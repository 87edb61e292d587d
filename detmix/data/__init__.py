"""Data sets: COCO, VOC, made-up shapes; and the bridges to augmentation libraries.

The albumentations bridge is :mod:`detmix.data.transforms`, imported on its own because it loads albumentations.
"""

from .annotations import Annotations as Annotations
from .augment import Augment as Augment
from .augment import MixupBatchTransform as MixupBatchTransform
from .augment import to_tv_tensors as to_tv_tensors
from .coco import read_coco as read_coco
from .dataset import DetectionDataset as DetectionDataset
from .images import read_image as read_image
from .shapes import Shapes as Shapes
from .voc import read_voc as read_voc
