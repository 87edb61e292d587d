"""Warnings and tips of libraries that help nobody who trains."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_UNHELPFUL = (
    ".*does not have many workers",  # chosen so: see DetectionData's num_workers
    ".*is smaller than the logging interval",  # true of a small data set, and harmless
    ".*recommended to use `self.log.*sync_dist",  # every process has evaluated all images already
    ".*exists and is not empty",  # a run that goes on writes to its own folder
    ".*callbacks used to create the checkpoint",  # those that save are of no use to validate and test
    ".*your dataloader is not resumable",  # LastCheckpoint and TrainingOrder see to that
    ".*args parameter is intended to run from within Python",  # cli_main takes them from nowhere else
)
_TIPS = logging.getLogger("lightning.pytorch.utilities.rank_zero")


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings and tips that help nobody."""
    _TIPS.addFilter(_is_helpful)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # between Lightning, jsonargparse and torch
        warnings.filterwarnings("ignore", ".*treespec, LeafSpec", FutureWarning)
        for message in _UNHELPFUL:
            warnings.filterwarnings("ignore", message)
        try:
            yield
        finally:
            _TIPS.removeFilter(_is_helpful)


def _is_helpful(record: logging.LogRecord) -> bool:
    return "try installing [lit" not in record.getMessage()  # services that nobody asked for
