"""Adapters that make the training losses of torchvision's detectors honour object weights."""

from .adapter import unweight_losses as unweight_losses
from .adapter import weight_losses as weight_losses
from .precision import keep_boxes_exact as keep_boxes_exact
from .rows import Objective as Objective
from .validation import losses_and_detections as losses_and_detections
