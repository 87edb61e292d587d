"""Data sets: COCO, VOC, made-up shapes; and the bridges to augmentation libraries.

The bridges are in :mod:`detmix.data.transforms`, imported on its own because it needs albumentations.
"""

from .annotations import Annotations as Annotations
from .coco import read_coco as read_coco
from .dataset import DetectionDataset as DetectionDataset
from .images import read_image as read_image
from .shapes import Shapes as Shapes
from .voc import read_voc as read_voc
