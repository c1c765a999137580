"""A run directory: a training saved at any step, and resumed bit-exactly.

::

    Run            finds a checkpoint, restores it, saves when due, leaves at a signal
      -> TrainingState   all that decides the next number, as one value
      -> identity        whether the run directory holds this training, or another one
      -> checkpoint      the files: written whole or not at all, verified when they are read

A training without a directory has a `Run` that does nothing, so the loop asks no questions.
"""

from kerastrain.run import checkpoint
from kerastrain.run import state_trees
from kerastrain.run.identity import check_alike
from kerastrain.run.identity import check_calls_alike
from kerastrain.run.identity import compared_options
from kerastrain.run.identity import contract_of
from kerastrain.run.lock import Lock
from kerastrain.run.null_run import NullRun
from kerastrain.run.position import Position
from kerastrain.run.run_directory import Run
from kerastrain.run.shared_run import make_run
from kerastrain.run.training import Training

__all__ = [
    "Lock",
    "NullRun",
    "Position",
    "Run",
    "Training",
    "check_alike",
    "check_calls_alike",
    "checkpoint",
    "compared_options",
    "contract_of",
    "make_run",
    "state_trees",
]
