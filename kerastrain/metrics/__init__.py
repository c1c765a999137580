"""Metrics that obey the laws of `kerastrain.testing`, and the state of metrics.

Every metric here gives the same result however its rows are cut into batches,
micro-batches and replicas, a weight is a number of copies, and what has a
counterpart in scikit-learn or NumPy equals it::

    import kerastrain

    model.compile(loss="binary_crossentropy", weighted_metrics=[kerastrain.metrics.ROCAUC()])

============== ========================================= ===================
module         metrics                                   state
============== ========================================= ===================
classification `Precision`, `Recall`, `FScore`,          a matrix of classes
               `ConfusionMatrix`, `MatthewsCorrelation`
calibration    `ExpectedCalibrationError`                sums of bins
ranking        `ROCAUC`, `AveragePrecision`              all rows
regression     `R2Score`                                 moments
correlation    `PearsonCorrelation`                      moments
..             `SpearmanCorrelation`                     all rows
moments        `MeanAndVariance`                         moments
quantiles      `Quantile`, `AbsoluteErrorQuantile`       all values
growing        `EpochMetric`, any function of all rows   all rows
binding        `Bind`, any metric of parts of the batch  the metric's
============== ========================================= ===================

What keeps all rows says in its docstring how many bytes a row takes, and may be
limited by ``max_rows``.
"""

from kerastrain.metrics.binding import Bind
from kerastrain.metrics.calibration import ExpectedCalibrationError
from kerastrain.metrics.classification import ConfusionMatrix
from kerastrain.metrics.classification import FScore
from kerastrain.metrics.classification import MatthewsCorrelation
from kerastrain.metrics.classification import Precision
from kerastrain.metrics.classification import Recall
from kerastrain.metrics.correlation import PearsonCorrelation
from kerastrain.metrics.correlation import SpearmanCorrelation
from kerastrain.metrics.growing import add_growing_variable
from kerastrain.metrics.growing import EpochMetric
from kerastrain.metrics.moments import MeanAndVariance
from kerastrain.metrics.quantiles import AbsoluteErrorQuantile
from kerastrain.metrics.quantiles import Quantile
from kerastrain.metrics.ranking import AveragePrecision
from kerastrain.metrics.ranking import ROCAUC
from kerastrain.metrics.regression import R2Score

__all__ = [
    "AbsoluteErrorQuantile",
    "AveragePrecision",
    "Bind",
    "ConfusionMatrix",
    "EpochMetric",
    "ExpectedCalibrationError",
    "FScore",
    "MatthewsCorrelation",
    "MeanAndVariance",
    "PearsonCorrelation",
    "Precision",
    "Quantile",
    "R2Score",
    "ROCAUC",
    "Recall",
    "SpearmanCorrelation",
    "add_growing_variable",
]
