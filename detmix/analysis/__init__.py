"""What mixing does to a detector: detection rate against visibility, and how entangled classes are at each layer."""

from .entanglement import Entanglement as Entanglement
from .entanglement import entanglement as entanglement
from .neighbours import soft_nearest_neighbour_loss as soft_nearest_neighbour_loss
from .visibility import DetectionRates as DetectionRates
from .visibility import detection_rates as detection_rates
