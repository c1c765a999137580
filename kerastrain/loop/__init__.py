"""When things happen: the loop of ``fit``, evaluation, prediction, and what is shown.

`FitLoop` is the loop, in the order that its docstring states and a test
holds. It owns no arithmetic: steps come from `kerastrain.execution`, through `kerastrain.guard`,
and `kerastrain.run` decides when to save.
"""

from kerastrain.loop import batch_sizes
from kerastrain.loop import callbacks
from kerastrain.loop import learning_rates
from kerastrain.loop import schedule
from kerastrain.loop.evaluation import Evaluation
from kerastrain.loop.fit_loop import FitLoop
from kerastrain.loop.prediction import predict
from kerastrain.loop.prediction import predict_by_keras
from kerastrain.loop.progress import Progress

__all__ = [
    "Evaluation",
    "FitLoop",
    "Progress",
    "batch_sizes",
    "callbacks",
    "learning_rates",
    "predict",
    "predict_by_keras",
    "schedule",
]
