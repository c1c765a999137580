"""The learning-rate range test: a few steps with rates from very low to too high.

The test is of L. N. Smith, "Cyclical Learning Rates for Training Neural Networks", 2017, section 3.3;
rates that grow by a factor, and the steepest descent of the smoothed loss as a suggestion, are of
S. Gugger, "How Do You Find A Good Learning Rate", 2018.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from kerastrain import notices
from kerastrain.data import Source
from kerastrain.errors import ArgumentError
from kerastrain.execution import Runner
from kerastrain.state import learning_rates as learning_rate_variables

# The test ends where the moving mean of the loss is so many times its best, and above where it began.
_DIVERGED = 4.0
# What a new loss weighs in the moving mean, and the share of the steps that tell where it began.
_NEW, _FIRST = 0.1, 0.1
# Of the steps, the share that a loss is averaged over, on each side.
_SMOOTHED = 0.04
# The share of the whole fall that is noise before it, at least.
_FALLEN = 0.1


@dataclasses.dataclass(frozen=True)
class LearningRates:
    """What a learning-rate range test has measured.

    Attributes:
        rates: those that were tried, one a step, from the lowest on.
        losses: of the batch of each step, before its update.
        smoothed: the means of each loss and its neighbours.
        suggestion: the rate at which the smoothed loss falls most for a factor of the rate, once it has
            begun to fall for good; None where it never falls by more than its noise.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float | None

    def plot(self) -> Any:
        """Plots the losses by rate, with the suggestion.

        Returns:
            The matplotlib axes.

        Raises:
            ArgumentError: matplotlib is not installed; the message says how it is.
        """
        from kerastrain.report import new_axes  # which imports a plotting library

        axes = new_axes()
        axes.plot(self.rates, self.losses, alpha=0.3, label="loss of a batch")
        axes.plot(self.rates, self.smoothed, label="smoothed")
        if self.suggestion is not None:
            axes.axvline(
                self.suggestion, linestyle="--", label=f"suggestion: {self.suggestion:.2g}"
            )
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
        axes.legend()
        return axes


def measured(
    runner: Runner,
    source: Source,
    optimizer: Any,
    rates: np.ndarray,
    loss_of: Callable[[Any], float],
) -> LearningRates:
    """Trains a step with each rate, until the loss is too high.

    Args:
        runner: of train steps, one in a call.
        source: the data, from which epochs are drawn until there are enough steps.
        optimizer: whose rate it is.
        rates: to be tried.
        loss_of: gives the loss of the step that has run, by its logs, and forgets it; NaN where a weight
            is not finite after it.
    """
    losses, means = list[float](), list[float]()
    for work in _steps(runner, source, len(rates)):
        optimizer.learning_rate.assign(rates[len(losses)])
        logs = work.run()
        losses.append(loss_of(logs[-1] if logs else None))
        if not math.isfinite(losses[-1]):
            break
        means.append(losses[-1] if not means else means[-1] + _NEW * (losses[-1] - means[-1]))
        first = losses[: max(5, round(_FIRST * len(rates)))]
        if len(losses) > 2 * len(first) and means[-1] > max(_DIVERGED * min(means), max(first)):
            break
        if len(losses) == len(rates):
            break
    tried = [float(rate) for rate in rates[: len(losses)]]
    smoothed = _smoothed(losses)
    return LearningRates(tried, losses, smoothed, _suggestion(tried, smoothed))


def _steps(runner: Runner, source: Source, number: int) -> Any:
    runner.begin(number)
    done = epoch = 0
    while done < number:
        begun = done
        for work in runner.epoch(source, epoch):
            yield work
            done += work.steps
        epoch += 1
        if done == begun:
            return


def _smoothed(losses: list[float]) -> list[float]:
    """Means over neighbours on both sides, so that nothing is moved to higher rates."""
    size = max(1, round(_SMOOTHED * len(losses)))
    highest = max(filter(math.isfinite, losses), default=math.nan)
    finite = [loss if math.isfinite(loss) else highest for loss in losses]
    return [float(np.mean(finite[max(0, i - size) : i + size + 1])) for i in range(len(finite))]


def _suggestion(rates: list[float], smoothed: list[float]) -> float | None:
    """Where the smoothed loss falls most, after it has begun to fall for good."""
    first = max(5, round(_FIRST * len(smoothed)))
    if len(smoothed) < 2 * first:
        return None
    begun, noise = float(np.median(smoothed[:first])), float(np.ptp(smoothed[:first]))
    lowest = int(np.argmin(smoothed))
    fall = begun - smoothed[lowest]
    if lowest < first or not fall > noise:
        return None
    high = [i for i in range(lowest) if smoothed[i] > begun - _FALLEN * fall]
    start = min(high[-1] if high else 0, lowest - 1)
    slopes = np.gradient(smoothed, np.log(rates))[start : lowest + 1]
    return rates[start + int(np.argmin(slopes))]


def check_optimizer(optimizer: Any) -> None:
    """Refuses an optimizer whose learning rate cannot be set.

    Raises:
        ArgumentError: as said.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if not learning_rate_variables([inner]):
        raise ArgumentError(
            f"The learning rate of {type(inner).__name__} is a schedule, which cannot be set. Make the "
            "optimizer with a number to find one, and the schedule with what was found."
        )


def warn_without_suggestion(found: LearningRates) -> None:
    """Warns where the loss never falls, or the steps were not finite from the start."""
    if found.suggestion is not None:
        return
    if not math.isfinite(found.losses[-1]):
        why = f"Step {len(found.losses)} was not finite, with a rate of {found.rates[-1]:.2g}"
        advice = "Look at the data, which `fit` does too, and names what is not finite."
    else:
        why = f"The loss does not fall by more than its noise up to {found.rates[-1]:.2g}"
        advice = "Look at .plot(), and pass another range, more steps or larger batches."
    notices.warn(f"{why}: no learning rate is suggested. {advice}")
