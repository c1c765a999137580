"""One pass over a data set without training, in fresh metrics, and what metrics say after it.

::

    evaluation = Evaluation(model, states)
    with states.set_aside():
        logs = evaluation.run(runner, source, callbacks)
"""

from collections.abc import Callable

import keras

from kerastrain import _keras
from kerastrain import merging
from kerastrain.data import Source
from kerastrain.metrics.states import MetricStates
from kerastrain.progress import Progress
from kerastrain.runner import Runner
from kerastrain.runner import run_and_tell
from kerastrain.timing import Times


class Evaluation:
    """Evaluates a model, and tells the results of its metrics.

    Args:
        model: the model that trains, built and compiled.
        states: of its metrics.
    """

    def __init__(self, model: keras.Model, states: MetricStates):
        self._model, self._states = model, states

    def run(
        self,
        runner: Runner,
        source: Source,
        callbacks: keras.callbacks.CallbackList,
        progress: Progress | None = None,
        between: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """One pass over a data set, in the metrics as they are.

        Args:
            runner: of test steps.
            source: the data.
            callbacks: who is told.
            progress: where it is shown.
            between: called between the steps.

        Returns:
            ``{name: result}``.
        """
        model, logs, done, times = self._model, None, 0, Times()
        model.stop_evaluating = False
        callbacks.on_test_begin()
        for work in runner.epoch(source):
            logs = run_and_tell(work, callbacks, "test", times)
            done += work.steps
            if progress is not None:
                progress.update(done, self.results)
            if model.stop_evaluating:
                break
            between()
        results = _keras.python_logs(self.epoch_logs(logs))
        callbacks.on_test_end(results)
        return results

    def results(self) -> dict[str, float]:
        """What the metrics say now, of all replicas together."""
        return _keras.python_logs(self._states.results())

    def epoch_logs(self, logs: dict | None) -> dict:
        """What an epoch logs.

        Args:
            logs: what its last step returned, if steps return any.
        """
        if logs is None:
            return dict(self._states.results())
        return merging.results(self._model, lambda: _keras.metrics_or_logs(self._model, logs))
