"""Data sets: COCO, VOC, made-up shapes; streams; and the bridges to augmentation libraries.

The albumentations bridge is :mod:`detmix.data.transforms`, imported on its own because it loads albumentations. The
libraries of the streams are loaded when a stream is made.
"""

from .annotations import Annotations as Annotations
from .augment import Augment as Augment
from .augment import MixupBatchTransform as MixupBatchTransform
from .augment import to_tv_tensors as to_tv_tensors
from .coco import read_coco as read_coco
from .dataset import DetectionDataset as DetectionDataset
from .huggingface import HuggingFaceStream as HuggingFaceStream
from .images import read_image as read_image
from .shapes import Shapes as Shapes
from .shards import write_shards as write_shards
from .skeleton import Skeleton as Skeleton
from .voc import read_voc as read_voc
from .webdataset import WebDatasetStream as WebDatasetStream
