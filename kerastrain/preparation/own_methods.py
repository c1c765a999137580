"""A model's own ``fit``, ``evaluate`` and ``predict``, with kerastrain's loop inside them.

A model may prepare its data there, as the tasks of KerasHub do::

    class Classifier(keras.Model):
        def fit(self, x, y, **kwargs):
            return super().fit(x=dataset_of(x, y).map(self.preprocess), **kwargs)

Its method is called as the user called `Trainer`'s, and where it comes to Keras's method of
that name (``super().fit``), `Trainer` runs with the arguments that are passed there. So
all that it does before and after is done, whatever that is::

    class Trainer:
        @inside_own_method("run_dir")       # arguments that are not Keras's
        def fit(self, x=None, ...):
            ...

Callbacks that call the model's methods get Keras's, as without the trainer.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable
from types import CodeType
from typing import Any
from typing import NoReturn
from typing import TypeVar

import keras

from kerastrain import _keras
from kerastrain.data import named_sets
from kerastrain.data import Source
from kerastrain.errors import ArgumentError
from kerastrain.errors import ModelError
from kerastrain.preparation import user_code

# The argument by which Keras's `fit` lets `evaluate` know that it validates.
_IN_FIT = "_use_cached_eval_dataset"

Method = TypeVar("Method", bound=Callable[..., Any])
Evaluate = Callable[[Source], dict[str, float]]


def inside_own_method(
    *extra: str, unless: Callable[[dict[str, Any]], bool] = lambda given: False
) -> Callable[[Method], Method]:
    """Decorates a method of `Trainer` to run inside the model's own method of its name, if any.

    Args:
        *extra: its arguments that are not those of Keras; the model's method is not given them.
        unless: takes the arguments that were given by name; whether it runs as it is.

    Raises:
        ModelError: the model's method does not come to Keras's, or cannot be called.
        ArgumentError: it does not take an argument that was given.
    """

    def decorate(function: Method) -> Method:
        name, signature = function.__name__, inspect.signature(function)

        @functools.wraps(function)
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            compiled = self.take_up_compile()
            model = compiled.model
            if not is_own(model, name) or unless(signature.bind(self, *args, **kwargs).arguments):
                return function(self, *args, **kwargs)
            _check_can_run(model, name)
            extras = {key: kwargs.pop(key) for key in extra if key in kwargs}

            def run(*args: Any, **kwargs: Any) -> Any:
                return function(self, *args, **kwargs, **extras)

            with compiled.activated():
                return call(model, name, run, *args, once=bool(extras), **kwargs)

        return method  # type: ignore[return-value]

    return decorate


def refuse_named_validation(given: dict[str, Any]) -> bool:
    """Refuses what a model's own ``fit`` cannot know: validation sets by name.

    Raises:
        ArgumentError: as said.
    """
    sets = named_sets.named_sets(given.get("validation_data"))
    if sets is not None:
        raise ArgumentError(
            f"`validation_data` has the sets {sorted(sets)}, and the model has a `fit` of its own, "
            "which takes one. Pass one of them, and call trainer.evaluate with all afterwards."
        )
    return False


def is_own(model: keras.Model, name: str) -> bool:
    """Whether the model, or a class between its own and ``keras.Model``, defines the method."""
    return _keras.overrides(model, name)


def call(
    model: keras.Model,
    name: str,
    run: Callable[..., Any],
    *args: Any,
    once: bool = False,
    **kwargs: Any,
) -> Any:
    """Calls the model's method, with ``run`` in place of Keras's method of that name.

    Args:
        model: whose method.
        name: such as ``"fit"``.
        run: is given the arguments that reach Keras's method.
        *args, **kwargs: of the model's method.
        once: whether Keras's may be reached only once.

    Returns:
        What the model's method returns.
    """
    _check_takes(model, name, args, kwargs)
    reached: list[str] = []

    def keras_method(*args: Any, **kwargs: Any) -> Any:
        reached.append(name)
        if once and len(reached) > 1:
            raise ArgumentError(
                f"`{name}` of {type(model).__name__} calls super().{name} more than once, and a "
                "`run_dir` is of one training. Leave out `run_dir` and what belongs to it."
            )
        kwargs.pop(_IN_FIT, None)
        with _keras.base_method_replaced(model, name, None):
            return run(*args, **kwargs)

    with _keras.base_method_replaced(model, name, keras_method):
        result = getattr(model, name)(*args, **kwargs)
    if not reached:
        raise ModelError(_not_reached(model, name))
    return result


def _check_takes(
    model: keras.Model, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    try:
        inspect.signature(getattr(model, name)).bind(*args, **kwargs)
    except TypeError as error:
        raise ArgumentError(
            f"`{name}` of {type(model).__name__} is its own, and does not take what was passed: "
            f"{error}. Leave the argument out, or let the method take **kwargs and pass them to "
            f"super().{name}."
        ) from None


def _check_can_run(model: keras.Model, name: str) -> None:
    """Refuses, before anything has changed, what is certain not to come to Keras's method."""
    functions = user_code.reached(model, getattr(model, name))
    if functions and not any(name in _names(f.__code__) for f in functions):
        raise ModelError(_not_reached(model, name))


def _names(code: CodeType) -> set[str]:
    """What a function's code may call by name, its inner functions' too: also by ``getattr``."""
    inner = [constant for constant in code.co_consts if inspect.iscode(constant)]
    texts = [text for text in keras.tree.flatten(code.co_consts) if isinstance(text, str)]
    return {*code.co_names, *code.co_freevars, *texts}.union(*map(_names, inner))


def _not_reached(model: keras.Model, name: str) -> str:
    return (
        f"{type(model).__name__} has a `{name}` of its own, which does not call super().{name}: "
        f"`Trainer` has no part in it. Call model.{name} itself, let it call super().{name}, "
        "or remove it."
    )


# Validation inside `fit` ------------------------------------------------------


class _Reached(BaseException):
    """Keras's method is reached. No `Exception`, which the user's code might catch."""


class OwnValidation:
    """A data set to validate on, by the model's own ``evaluate``.

    Args:
        model: whose ``evaluate``.
        make_source: makes a `Source` of what reaches Keras's ``evaluate``.
        *data: ``x``, ``y`` and ``sample_weight`` of the model's ``evaluate``.
        name: what messages call the data.
        **options: ``batch_size`` and ``steps`` of it.

    Attributes:
        source: of what reaches Keras's ``evaluate`` at first.
    """

    def __init__(
        self,
        model: keras.Model,
        make_source: Callable[..., Source],
        *data: Any,
        name: str = "x",
        **options: int | None,
    ):
        self._model = model
        self._given = dict(zip(("x", "y", "sample_weight"), data, strict=True)) | options
        # As Keras's `fit` has it: data that the model's own `fit` has prepared are not prepared again.
        if _takes(model.evaluate, _IN_FIT):
            self._given[_IN_FIT] = True
        self._make_source = functools.partial(_source_of, make_source, name)
        self._first = self._reached()
        self.source = self._make_source(self._first)

    def _reached(self) -> dict[str, Any]:
        """What the model's ``evaluate`` passes to Keras's, which does not run."""
        found: dict[str, Any] = {}

        def keras_evaluate(*args: Any, **kwargs: Any) -> NoReturn:
            found.update(_arguments_of_evaluate(args, kwargs))
            raise _Reached

        with contextlib.suppress(_Reached):
            call(
                *(self._model, "evaluate", keras_evaluate),
                **{**self._given, "callbacks": None, "return_dict": True},
            )
        return found

    def run(self, evaluate: Evaluate, callbacks: Any) -> dict[str, float]:
        """Validates once.

        Args:
            evaluate: what is done with a source, and returns ``{name: result}``.
            callbacks: that are called.

        Returns:
            What the model's ``evaluate`` returns.

        Raises:
            ModelError: that is no dict.
        """

        def keras_evaluate(*args: Any, **kwargs: Any) -> dict[str, float]:
            data = _arguments_of_evaluate(args, kwargs)
            if all(data[name] is value for name, value in self._first.items()):
                return evaluate(self.source)
            with contextlib.closing(self._make_source(data)) as source:  # made anew, as by Keras
                return evaluate(source)

        logs = call(
            *(self._model, "evaluate", keras_evaluate),
            **{**self._given, "callbacks": callbacks, "return_dict": True},
        )
        if not isinstance(logs, dict):
            raise ModelError(
                f"`evaluate` of {type(self._model).__name__} returned {logs!r} for "
                "return_dict=True. Return what super().evaluate returns."
            )
        return logs


class OwnValidations:
    """Validates on sets by name, as `FitLoop` asks for it.

    Args:
        sets: by name.
    """

    def __init__(self, sets: dict[str, OwnValidation]):
        self._sets = sets

    def __call__(
        self, name: str, evaluate: Evaluate, source: Source, callbacks: Any
    ) -> dict[str, float]:
        """The results of one."""
        del source
        return self._sets[name].run(evaluate, callbacks)


def validate_as_it_is(
    name: str, evaluate: Evaluate, source: Source, callbacks: Any
) -> dict[str, float]:
    """The results of a set where the model has no ``evaluate`` of its own."""
    del name, callbacks
    return evaluate(source)


def _takes(method: Callable[..., Any], name: str) -> bool:
    """Whether a method can be given an argument by name."""
    parameters = inspect.signature(method).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _source_of(make_source: Callable[..., Source], name: str, data: dict[str, Any]) -> Source:
    options = {key: data[key] for key in ("batch_size", "steps")}
    return make_source(data["x"], data["y"], data["sample_weight"], name=name, **options)


def _arguments_of_evaluate(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """What decides the batches, of the arguments of ``keras.Model.evaluate``."""
    bound = inspect.signature(keras.Model.evaluate).bind(None, *args, **kwargs).arguments
    names = ("x", "y", "sample_weight", "batch_size", "steps")
    return {name: bound.get(name) for name in names}
