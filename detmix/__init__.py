"""Mixup for object detection with torchvision: blended images, weighted boxes, losses that honour the weights."""

from .batch import MixupBatch as MixupBatch
from .batch import collate as collate
from .cutmix import cutmix_pair as cutmix_pair
from .cutmix import cutout as cutout
from .cutmix import sample_region as sample_region
from .dataset import MixupDataset as MixupDataset
from .detectors import keep_boxes_exact as keep_boxes_exact
from .detectors import losses_and_detections as losses_and_detections
from .detectors import unweight_losses as unweight_losses
from .detectors import weight_losses as weight_losses
from .manifold import ManifoldMixup as ManifoldMixup
from .mixing import mix_pair as mix_pair
from .mixing import sample_lambda as sample_lambda
from .seeding import SeededDataset as SeededDataset
from .stream import MixupIterable as MixupIterable
from .target_checks import check_target as check_target
from .targets import object_keys as object_keys
