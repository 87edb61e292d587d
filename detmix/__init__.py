"""Mixup for object detection with torchvision: blended images, weighted boxes, losses that honour the weights."""

from .batch import collate as collate
from .dataset import MixupDataset as MixupDataset
from .detectors import unweight_losses as unweight_losses
from .detectors import weight_losses as weight_losses
from .mixing import mix_pair as mix_pair
from .mixing import sample_lambda as sample_lambda
from .targets import check_target as check_target
from .targets import object_keys as object_keys
