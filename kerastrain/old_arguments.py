"""Arguments of `Trainer` by the names that they had before version 0.8, for one minor version.

Each works as it did, with a ``DeprecationWarning`` that names its new place.
"""

import functools
from collections.abc import Callable
from typing import Any
from typing import TypeVar

from kerastrain.errors import ArgumentError
from kerastrain.errors import UnsupportedTypeError
from kerastrain.options import RunDir
from kerastrain.options import StepOptions
from kerastrain.renaming import warn_of_old_name

Function = TypeVar("Function", bound=Callable[..., Any])

_OF_A_RUN = ("resume", "save_every", "keep", "monitor")


def takes_old_options(init: Function) -> Function:
    """Lets the constructor take ``step=StepOptions(...)`` and ``strict=``."""

    @functools.wraps(init)
    def with_old_options(
        self: Any,
        *args: Any,
        step: StepOptions | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> None:
        if strict is not None:
            warn_of_old_name("`strict` of Trainer", '`lint`, "error" for True')
            if strict:
                kwargs.setdefault("lint", "error")
        if step is not None:
            warn_of_old_name(
                "`step` of Trainer", "one argument for each option, such as `micro_batches`"
            )
            if not isinstance(step, StepOptions):
                raise UnsupportedTypeError(
                    f"`step` must be StepOptions(...). Received: step={step!r} of type "
                    f"{type(step).__name__}."
                )
        self._all_options = step  # those of the compiled model have no part in it
        init(self, *args, **kwargs)

    return with_old_options  # type: ignore[return-value]


def takes_old_run_arguments(fit: Function) -> Function:
    """Lets ``fit`` take what `RunDir` has now, and ``profile=True``."""

    @functools.wraps(fit)
    def with_old_arguments(self: Any, *args: Any, **kwargs: Any) -> Any:
        old = {name: kwargs.pop(name) for name in _OF_A_RUN if name in kwargs}
        profile = kwargs.pop("profile", None)
        for name in old:
            warn_of_old_name(f"`{name}` of fit", f"`run_dir=RunDir(path, {name}=...)`")
        if old:
            kwargs["run_dir"] = _run_dir_of(kwargs.get("run_dir"), old)
        if profile is not None:
            warn_of_old_name("`profile` of fit", "`print(trainer.times)` after it")
        result = fit(self, *args, **kwargs)
        if profile:
            print(f"Time: {self.times}")
        return result

    return with_old_arguments  # type: ignore[return-value]


def _run_dir_of(path: Any, old: dict[str, Any]) -> RunDir | None:
    if isinstance(path, RunDir):
        raise ArgumentError(
            f"`{next(iter(old))}` is given beside a RunDir. Pass it to the RunDir instead."
        )
    if path is not None:
        return RunDir(path, **old)
    if old.get("save_every") is not None or old.get("monitor") is not None:
        raise ArgumentError(
            "`save_every` and `monitor` need a directory to save in. Received: run_dir=None. "
            'Pass run_dir=RunDir("runs/a", ...), say.'
        )
    return None
