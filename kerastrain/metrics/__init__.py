"""Metrics that obey the laws of `kerastrain.testing`, and the state of metrics.

Every metric here gives the same result however its rows are cut into batches,
micro-batches and replicas.
"""

from kerastrain.metrics.growing import EpochMetric
from kerastrain.metrics.growing import add_growing_variable

__all__ = ["EpochMetric", "add_growing_variable"]
