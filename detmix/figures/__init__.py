"""Pictures for people: weighted boxes, grids, precision-recall and training curves.

Photographs come back as PIL images, plots as matplotlib Figures that no global state knows of. Nothing is
said by colour or opacity alone: a box's number stands beside it, and lines differ in their dashes too.
Needs matplotlib, which is in ``detmix[train]``; ``import detmix`` does not.
"""

from .analysis import entanglement_figure as entanglement_figure
from .analysis import visibility_figure as visibility_figure
from .boxes import draw_boxes as draw_boxes
from .boxes import to_picture as to_picture
from .evaluation import average_precision_figure as average_precision_figure
from .evaluation import comparison_figure as comparison_figure
from .evaluation import confusion_figure as confusion_figure
from .grid import image_grid as image_grid
from .grid import lambda_grid as lambda_grid
from .objectives import objectives_figure as objectives_figure
from .plots import history_figures as history_figures
from .plots import history_series as history_series
from .plots import precision_recall_figure as precision_recall_figure
