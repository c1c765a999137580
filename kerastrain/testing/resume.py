"""Whether a training that is killed ends, after a resume, bit-exactly as one that is not.

::

    def make_trainer():
        model = build()
        return kerastrain.Trainer(model, optimizer="adam", loss="mse", seed=0)

    verify_resume(make_trainer, (x, y), epochs=3, kill_after=(1, 7, 20))

One fresh process trains to the end. Others train in a second directory, each until it is killed
after a step (SIGKILL, which no program can catch), and the last one to the end. Then every weight,
optimizer slot, metric variable, callback state and result must be bit-exact.
"""

import contextlib
import os
import signal
import tempfile
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from kerastrain.errors import ArgumentError
from kerastrain.options import RunDir
from kerastrain.run import checkpoint
from kerastrain.run import Run
from kerastrain.run import state_trees
from kerastrain.testing.fresh import FreshProcesses


class NotResumed(AssertionError):
    """A training that was killed and resumed differs from one that was not.

    The message names the first difference. Seed what is random: ``Trainer(seed=...)``, layers,
    ``shuffle`` of ``tf.data``; give callbacks of your own ``get_state`` and ``set_state``.
    """


def verify_resume(
    make_trainer: Callable[[], Any],
    data: Any,
    *,
    kill_after: Iterable[int] | None = None,
    callbacks: Callable[[], list] | None = None,
    save_every: Any = 1,
    seconds: float = 300,
    processes: FreshProcesses | None = None,
    **fit_arguments: Any,
) -> None:
    """Checks that a training that is killed resumes bit-exactly.

    Args:
        make_trainer: makes the `Trainer` anew; called in each process.
        data: ``(x, y)``, ``(x, y, sample_weight)`` or a source of batches; or a function that
            makes it, called in each process. So may ``validation_data`` be.
        kill_after: numbers of steps, of all epochs, after each of which a process is killed.
            Default: five, from the first step to the last.
        callbacks: makes the callbacks anew.
        save_every: as for `RunDir`.
        seconds: that a process may take.
        processes: where they are started, to be shared by several checks; default new ones.
        **fit_arguments: for `Trainer.fit`; ``keep`` and ``monitor`` are for `RunDir`.

    Raises:
        NotResumed: names the first difference.
        RuntimeError: a process failed; with what it wrote.
    """
    if "run_dir" in fit_arguments:
        raise ArgumentError("verify_resume makes directories of its own. Remove `run_dir`.")
    fit_arguments = {"verbose": 0, "save_every": save_every, **fit_arguments}
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        fresh = processes or stack.enter_context(FreshProcesses())
        whole, resumed = Path(directory, "whole"), Path(directory, "resumed")

        def train(place: Path, kill: int | None = None) -> None:
            arguments = make_trainer, data, callbacks, place, kill, fit_arguments
            ended = fresh.run(train_in, *arguments, seconds=seconds)
            if ended.status != (0 if kill is None else -signal.SIGKILL):
                raise RuntimeError(f"A process ended with {ended.status}: {ended.output}")

        train(whole)
        total = end_of(whole)["position"]["steps"]
        kills = np.linspace(1, total, 5) if kill_after is None else kill_after
        for kill in sorted({int(k) for k in kills}):
            if not 1 <= kill <= total:
                raise ArgumentError(
                    f"`kill_after` must be from 1 to {total}, the steps that there are. "
                    f"Received: {kill}."
                )
            train(resumed, kill)
        train(resumed)
        check_same(whole, resumed)


def train_in(
    make_trainer: Callable[[], Any],
    data: Any,
    callbacks: Callable[[], list] | None,
    place: Path,
    kill: int | None,
    fit_arguments: dict[str, Any],
) -> None:
    """Trains in ``place/run``, and writes what the training left to ``place/left``.

    Args:
        make_trainer, data, callbacks: as for `verify_resume`.
        place: a directory.
        kill: after how many steps to be killed, or None.
        fit_arguments: for `Trainer.fit`, and the options of `RunDir`.
    """
    trainer = make_trainer()
    data = data() if callable(data) else data
    x, y, weight = (*data, None, None)[:3] if isinstance(data, tuple) else (data, None, None)
    made = None if callbacks is None else callbacks()
    if callable(validation := fit_arguments.get("validation_data")):
        fit_arguments = fit_arguments | {"validation_data": validation()}
    names = {"save_every", "keep", "monitor"} & fit_arguments.keys()
    run_dir = RunDir(place / "run", **{name: fit_arguments[name] for name in names})
    options = {name: value for name, value in fit_arguments.items() if name not in names}
    with killed_after(kill) if kill else contextlib.nullcontext():
        history = trainer.fit(
            x, y, sample_weight=weight, callbacks=made, run_dir=run_dir, **options
        )
    variables = [*trainer.model.variables, *trainer.optimizer.variables]
    tensors = {f"{i} {v.path}": np.asarray(v.numpy()) for i, v in enumerate(variables)}
    info, more = state_trees.pack(history.history, "history")
    (place / "left").mkdir(exist_ok=True)
    checkpoint.write_files(place / "left", tensors | more, info)


@contextlib.contextmanager
def killed_after(steps: int) -> Iterator[None]:
    """Inside, this process is killed after ``steps`` of all epochs, before it saves them.

    All that was due to be saved before is on the disk then, or the process would resume from
    somewhere else each time.
    """
    until_save, after = Run.steps_until_save, Run.after_steps

    def steps_until_kill(self: Run, done: int) -> int:
        return min(until_save(self, done), max(1, steps - done))

    def killing(self: Run, position: Any) -> None:
        self.wait()
        if position.steps == steps:
            os.kill(os.getpid(), signal.SIGKILL)
        after(self, position)

    with (
        mock.patch.object(Run, "steps_until_save", steps_until_kill),
        mock.patch.object(Run, "after_steps", killing),
    ):
        yield


def end_of(place: Path) -> dict[str, Any]:
    """The last state that was saved in ``place/run``."""
    found = checkpoint.Checkpoints(place / "run" / "checkpoints").newest()
    assert found is not None  # it has saved something
    return state_trees.unpack(found.info["state"], found.tensors) | {
        "variables": {
            name: array
            for name, array in found.tensors.items()
            if name.startswith(("model/", "metrics/", "optimizer/"))
        }
    }


def check_same(whole: Path, resumed: Path) -> None:
    """Compares what two trainings left, bit-exactly.

    Raises:
        NotResumed: names the first difference.
    """
    pairs = [checkpoint.read(place / "left") for place in (whole, resumed)]
    histories = [state_trees.unpack(one.info, one.tensors) for one in pairs]
    _check("the history", *histories)
    left = [
        {name: a for name, a in one.tensors.items() if not name.startswith("history")}
        for one in pairs
    ]
    _check("after fit,", *left)
    ends = [end_of(place) for place in (whole, resumed)]
    for part in ("position", "callbacks", "variables"):
        _check(f"the {part} that were saved last,", *(end[part] for end in ends))


def _check(where: str, one: Any, other: Any) -> None:
    found = _difference(one, other, "")
    if found:
        raise NotResumed(f"Killed and resumed, the training differs: {where} {found}.")


def _difference(one: Any, other: Any, path: str) -> str | None:
    """The first difference of two nested values, or None."""
    if type(one) is not type(other):
        return f"{path} is {one!r} and {other!r}"
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return f"{path} has {sorted(one)} and {sorted(other)}"
        pairs = [(f"{path}[{key!r}]", one[key], other[key]) for key in one]
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            return f"{path} has {len(one)} and {len(other)} entries"
        pairs = [(f"{path}[{i}]", *pair) for i, pair in enumerate(zip(one, other, strict=True))]
    elif isinstance(one, np.ndarray | np.generic):
        return _of_arrays(np.asarray(one), np.asarray(other), path)
    else:
        same = one == other or (one != one and other != other)
        return None if same else f"{path} is {one!r} and {other!r}"
    return next((found for p, a, b in pairs if (found := _difference(a, b, p))), None)


def _of_arrays(one: np.ndarray, other: np.ndarray, path: str) -> str | None:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return f"{path} is {one.dtype}{one.shape} and {other.dtype}{other.shape}"
    if one.tobytes() == other.tobytes():
        return None
    index = next(i for i in np.ndindex(one.shape) if one[i].tobytes() != other[i].tobytes())
    return f"{path}, at {index}, is {one[index]!r} and {other[index]!r}"
