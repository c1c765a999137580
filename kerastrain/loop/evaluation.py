"""One pass over a data set without training, in fresh metrics, and what metrics say after it.

::

    evaluation = Evaluation(model, states)
    with states.isolated():
        logs = evaluation.run(runner, source, callbacks)

A pass without a batch has no results: each is NaN, which no callback takes for the best. What
fresh metrics say, 0 for most, is a number that nobody measured.
"""

from collections.abc import Callable
from typing import Any

import keras

from kerastrain import _keras
from kerastrain import notices
from kerastrain.data import Source
from kerastrain.distribution import merging
from kerastrain.distribution import MetricStates
from kerastrain.execution import run_and_notify
from kerastrain.execution import Runner
from kerastrain.execution import Times
from kerastrain.loop.progress import Progress
from kerastrain.step import updates


class Evaluation:
    """Evaluates a model, and returns the results of its metrics.

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
        progress: Progress,
        between: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """One pass over a data set, in the metrics as they are.

        Args:
            runner: of test steps.
            source: the data.
            callbacks: that are called.
            progress: where it is shown.
            between: called between the steps.

        Returns:
            ``{name: result}``; all are NaN where there was no batch, of which the source warns.
        """
        model, logs, done, times = self._model, None, 0, Times()
        model.stop_evaluating = False
        with self._states.untouched_by_callbacks():
            callbacks.on_test_begin()
            votes = runner.votes
            votes.ask("draw", "any", lambda: progress.is_due)
            votes.ask("stop", "any", lambda: model.stop_evaluating)
            for work in runner.epoch(source):
                progress.note(runner.choice.activity)
                logs = run_and_notify(work, callbacks, "test", times)
                done += work.steps
                if votes["draw"]:
                    progress.update(done, updates.without_norms(model, self.results()))
                if model.stop_evaluating and not votes.cluster.has_others:
                    break
                between()
        if done:
            results = _keras.python_logs(self.epoch_logs(logs, "test"))
        else:
            results = merging.no_results(self.results())
        results = updates.without_norms(model, results)
        callbacks.on_test_end(results)
        return results

    def results(self) -> dict[str, float]:
        """What the metrics say now, of all replicas together."""
        return _keras.python_logs(self._states.results())

    def epoch_logs(self, logs: dict[str, Any] | None, kind: str) -> dict[str, Any]:
        """What an epoch logs; NaN for each result where its batches had no rows.

        Args:
            logs: what its last step returned, if steps return any.
            kind: of its steps, ``"train"`` or ``"test"``.
        """
        model = self._model
        if logs is None:
            results = dict(self._states.results())
        else:
            results = merging.results(model, lambda: _keras.metrics_or_logs(model, logs))
        # Only a loss of 0 can be that of no rows; a step of the user's own counts as it likes.
        if results.get("loss", 0.0) == 0.0 and not _keras.overrides(model, f"{kind}_step"):
            if not _keras.rows_measured(model):
                notices.warn(f"No {kind} batch of this epoch had a row: its results are NaN.")
                return merging.no_results(results)
        return results
