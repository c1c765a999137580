"""The exceptions of kerastrain; each docstring is the advice.

Every one of them is also a ``ValueError`` or a ``TypeError``, as Python users
expect, and is raised before any weight has changed unless it says otherwise::

    try:
        trainer.fit(x, y)
    except kerastrain.KerastrainError as error:
        print(error)
"""


class KerastrainError(Exception):
    """Base of all errors that kerastrain raises itself."""


class ArgumentError(KerastrainError, ValueError):
    """An argument has a value that cannot work.

    The message names the argument, the value received and a value that works.
    """


class DataError(KerastrainError, ValueError):
    """The data cannot be trained on: empty, of unequal lengths, all NaN, misshaped.

    Check the shapes named in the message against the model's inputs and
    outputs. Files that are missing, truncated or of the wrong layout raise
    this error too.
    """


class ModelError(KerastrainError, ValueError):
    """The model cannot be trained as it is: no loss, not buildable.

    The message names the model's class and what to add: a ``loss``, an
    ``optimizer``, or a call of the model on a batch that builds it.
    """


class ShapeError(DataError):
    """``y`` and the model's outputs do not fit together.

    Give ``y`` the shape of the output, or for sparse class indices the shape
    of the output without its last axis, or change the last layer.
    """


class MetricError(KerastrainError, ValueError):
    """A metric or a loss is unknown, or two would be logged under one name.

    Use a ``keras.metrics.Metric``, a name that ``keras.metrics.get`` knows,
    or a function of ``(y_true, y_pred)``, and give each a name of its own.
    """


class UnsupportedTypeError(KerastrainError, TypeError):
    """An argument is of a type that kerastrain cannot use.

    The message names the argument, the type received and the types that work.
    """


class OtherRandomNumbers(KerastrainError, ValueError):
    """XLA would draw other random numbers than TensorFlow's kernels.

    Not seen by users: the plan that raised it is dropped, and its reason is shown.
    """


class UnsupportedByXla(KerastrainError, ValueError):
    """XLA has no kernel for something in the model, the loss, a metric or the data.

    Only seen where nothing but XLA is allowed: pass ``jit_compile=False``. Else the plan that
    raised it is dropped, and its reason is shown.
    """


class RunError(KerastrainError, ValueError):
    """A run directory cannot be used: another process has it, or it is of another run.

    The message names the process, or the first thing that differs: resume with the model,
    loss, data and seed that it was begun with, or pass another directory.
    """


class WorkerLostError(KerastrainError, RuntimeError):
    """Another worker has ended, or does not answer, so that the training cannot continue.

    The message names it, where that is known. Its own output says why it ended. Start all workers
    again: with ``run_dir`` they resume from the last checkpoint.
    """


class CheckpointError(KerastrainError, ValueError):
    """A checkpoint is torn, changed, of another format, or of no training.

    `Trainer.fit` sets those aside that are not what was written, says so, and takes the one
    before. Others it refuses: move them away, or pass another directory.
    """


class NonFiniteError(KerastrainError, ArithmeticError):
    """A step ended with a loss, weight or slot that is NaN or infinite, and was rolled back.

    The model has the weights from before it. Look at the rows that the message names, lower the
    learning rate, or skip the batches of such steps: `Trainer` takes ``guard="skip"``, which is another
    run: with ``run_dir``, pass another directory.

    Attributes:
        epoch, step: of the step, and which of the epoch's it is, counted from 0.
        output: the name of the output whose loss it is, where that is known.
        rows: the rows of the batch, where it is in some of them.
        what: what was found, in words.
    """

    def __init__(
        self,
        what: str,
        epoch: int = 0,
        step: int = 0,
        output: str | None = None,
        rows: tuple[int, ...] = (),
        advice: str = "",
    ):
        super().__init__(what, epoch, step, output, rows, advice)
        self.what, self.epoch, self.step = what, epoch, step
        self.output, self.rows, self._advice = output, rows, advice

    def __str__(self) -> str:
        if not self._advice:
            return self.what
        return f"{self.what} The model has the weights from before it. {self._advice}"


class Preempted(SystemExit):
    """A signal asked the training to end; everything was saved first, or a warning says what not.

    ``code`` is 128 and the signal's number, as shells have it: 143 for SIGTERM. Not caught,
    it ends the process with that status. Not an error of kerastrain's: call ``fit`` with the
    same arguments to resume. Where the training has ended in an error after the signal, a warning
    says so, and ``__context__`` is that error.
    """
