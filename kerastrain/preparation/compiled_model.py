"""A model with a compile state besides the user's own.

::

    compiled = CompiledModel(model, {"optimizer": "adam", "loss": "mse"}, None, same, same)
    with compiled.activated() as trained:
        ...                        # `trained` carries this optimizer and loss
    # `model` is compiled as it was

Under a strategy in whose scope the model was not made, its variables are the scope's while it is
activated (`kerastrain.distribution.scoped`).
"""

import contextlib
import weakref
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from typing import NoReturn

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain.distribution import ScopedVariables
from kerastrain.distribution import strategy as strategy_lib
from kerastrain.errors import ModelError
from kerastrain.errors import UnsupportedTypeError
from kerastrain.options import check_clips_once
from kerastrain.options import Execution
from kerastrain.options import StepOptions
from kerastrain.preparation import checks

# Models that carry the compile state of some trainer in place of their own.
_ACTIVATED: "weakref.WeakSet[keras.Model]" = weakref.WeakSet()


class CompiledModel:
    """A model, where it trains, and the compile state it has while it does.

    Args:
        model: a ``keras.Model``, or a function that returns one.
        arguments: those of ``keras.Model.compile`` by name; what is None is
            taken from the compiled model.
        strategy: the strategy to train under, or None.
        execution, options: what becomes of those of the compiled model.

    Attributes:
        execution, options: the ones in force.
        model: the model.
        may_cut: whether steps that memory is too small for are run in more micro-batches.

    Raises:
        ModelError, MetricError, ArgumentError, UnsupportedTypeError: as
            `Trainer` says.
    """

    def __init__(
        self,
        model: keras.Model | Callable[[], keras.Model],
        arguments: dict[str, Any],
        strategy: tf.distribute.Strategy | None,
        execution: Callable[[Execution], Execution],
        options: Callable[[StepOptions], StepOptions],
    ):
        self._strategy = strategy
        self._is_activated = False
        self.model = self._built(model)
        self._scoped: ScopedVariables | None = None
        if strategy is not None:
            self._scoped = ScopedVariables(strategy)
        self.execution = execution(self._users_execution())
        self.options = options(_keras.step_options(self.model) or StepOptions())
        self.may_cut = self.options.micro_batches == "auto" and not _keras.overrides(
            self.model, "train_step"
        )
        self._state = self._compile(arguments)
        self._marks = _keras.compile_marks(self.model)
        check_clips_once(self.options, self.optimizer)

    @property
    def optimizer(self) -> keras.optimizers.Optimizer:
        """The optimizer that trains the model."""
        return self._state.get("optimizer")

    @property
    def state(self) -> dict[str, Any]:
        """The optimizer, losses and metrics, as Keras keeps them."""
        return dict(self._state)

    @property
    def is_outdated(self) -> bool:
        """Whether the user's model has been compiled again since what is here was taken from it."""
        if self._is_activated or self.model in _ACTIVATED:
            return False
        now = _keras.compile_marks(self.model)
        return len(now) != len(self._marks) or any(
            mark is not before for mark, before in zip(now, self._marks, strict=True)
        )

    @property
    def predicts_by_itself(self) -> bool:
        """Whether ``predict`` runs code of the user's own, or runs eagerly."""
        own = ("predict_step", "make_predict_function")
        return self.execution.run_eagerly or any(_keras.overrides(self.model, m) for m in own)

    def scope(self) -> contextlib.AbstractContextManager[None]:
        """The strategy's scope, or nothing."""
        return strategy_lib.scope(self._strategy)

    def _users_execution(self) -> Execution:
        model = self.model
        if not model.compiled:
            return Execution()
        jit = bool(model.jit_compile) and self._strategy is None
        jit = jit and not model.run_eagerly
        return Execution(run_eagerly=model.run_eagerly, jit_compile=True if jit else None)

    def _built(self, model: keras.Model | Callable[[], keras.Model]) -> keras.Model:
        if isinstance(model, keras.Model):
            return model
        if not callable(model) or isinstance(model, type | keras.Layer):
            raise UnsupportedTypeError(
                "`model` must be a keras.Model, or a function that returns one. "
                f"Received: {model!r} of type {type(model).__name__}."
            )
        with self.scope():
            made = model()
        if not isinstance(made, keras.Model):
            raise UnsupportedTypeError(
                "The function passed as `model` must return a keras.Model. It "
                f"returned: {made!r} of type {type(made).__name__}."
            )
        return made

    def _compile(self, given: dict[str, Any]) -> dict[str, Any]:
        model = self.model
        as_it_is = model.compiled and self._strategy is None and not _keras.are_to_be_bound(model)
        if as_it_is and all(v is None for v in given.values()):
            return _keras.compile_state(model)
        taken = _keras.compile_arguments(model) if model.compiled else {}
        arguments = {k: taken.get(k) if v is None else v for k, v in given.items()}
        checks.check_identifiers(arguments)
        if arguments["optimizer"] is None:
            raise ModelError(
                f"No optimizer for {type(model).__name__}. Pass `optimizer` "
                '(for example optimizer="adam"), or compile the model.'
            )
        if checks.is_without_loss(model, arguments["loss"]):
            raise ModelError(
                f"No loss for {type(model).__name__}. Pass `loss` (for example "
                'loss="mse"), compile the model, or use `add_loss` in it.'
            )
        arguments["optimizer"] = checks.as_optimizer(arguments["optimizer"])
        before = _keras.compile_state(model)
        try:
            _keras.clear_compile_state(model)
            _keras.base_compile(
                model,
                **arguments,
                run_eagerly=self.execution.run_eagerly,
                jit_compile=bool(self.execution.jit_compile),
            )
            return _keras.compile_state(model)
        finally:
            _keras.set_compile_state(model, before)

    @contextlib.contextmanager
    def activated(self) -> Iterator[keras.Model]:
        """Inside, the model carries this compile state, in the scope, with the scope's variables."""
        if self._is_activated:  # asked for by a callback of `fit`: all is in place
            yield self.model
            return
        users = _keras.compile_state(self.model)
        options = _keras.set_step_options(self.model, self.options)
        _keras.set_compile_state(self.model, self._state)
        self._is_activated, was_activated = True, self.model in _ACTIVATED
        _ACTIVATED.add(self.model)
        try:
            with (
                self._with_scoped_variables(),
                self.scope(),
                _keras.base_method_replaced(self.model, "compile", self._refuse),
                _keras.metrics_bound(self.model),
            ):
                yield self.model
        finally:
            self._is_activated = False
            if not was_activated:
                _ACTIVATED.discard(self.model)
            self._state = _keras.compile_state(self.model)
            _keras.set_compile_state(self.model, users)
            _keras.set_step_options(self.model, options)

    def _with_scoped_variables(self) -> contextlib.AbstractContextManager[None]:
        if self._scoped is None:
            return contextlib.nullcontext()
        return self._scoped.inside({"model": self.model})

    def check_trace(self, function: Any) -> None:
        """Makes sure that a step is of this model's variables, before it runs for the first time.

        Raises:
            ModelError: it is not.
        """
        if self._scoped is not None:
            self._scoped.check(function)

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Replaces ``compile`` of the model while it is activated."""
        raise ModelError(
            f"`compile` of {type(self.model).__name__} was called while a Trainer runs, by a callback "
            "or by the model's own code. The training has compiled the model already: to change the "
            "loss or the optimizer, end it, and compile the model before the next; a learning rate may be "
            "assigned at any time."
        )
