"""A model with a compile state beside the user's own.

::

    compiled = CompiledModel(model, {"optimizer": "adam", "loss": "mse"}, strategy=None)
    with compiled.in_charge() as trained:
        ...                        # `trained` carries this optimizer and loss
    # `model` is compiled as it was

Under a strategy ``trained`` may be a copy in the strategy's scope;
its weights and optimizer state are handed back to the user's own.
"""

import contextlib
import dataclasses
import weakref
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain import checks
from kerastrain import scope_copy
from kerastrain import strategy as strategy_lib
from kerastrain.errors import ModelError
from kerastrain.errors import UnsupportedTypeError
from kerastrain.options import Execution
from kerastrain.options import StepOptions
from kerastrain.options import check_clips_once


# Models that carry the compile state of some trainer in place of their own.
_IN_CHARGE: weakref.WeakSet = weakref.WeakSet()


class CompiledModel:
    """A model, where it trains, and the compile state it has while it does.

    Args:
        model: a ``keras.Model``, or a function that returns one.
        arguments: those of ``keras.Model.compile`` by name; what is None is
            taken from the compiled model.
        strategy: the strategy to train under, or None.
        execution, options: how the step is compiled and what it does; None
            for those of the compiled model.
        strict: as for `StepOptions`.

    Attributes:
        execution, options: the ones in force.
        users: the user's model.
        model: the model that trains: ``users``, or its copy in the scope.
        trainable: which layers the optimizer has been built for (``_keras.trainable_flags``), as
            who builds it says; None for those that train now.

    Raises:
        ModelError, MetricError, ArgumentError, UnsupportedTypeError: as
            `Trainer` says.
    """

    def __init__(
        self,
        model: keras.Model | Callable[[], keras.Model],
        arguments: dict[str, Any],
        strategy: tf.distribute.Strategy | None,
        execution: Execution | None,
        options: StepOptions | None,
        strict: bool = False,
    ):
        self._strategy = strategy
        self._users_optimizer: Any = None  # where another one trains in its stead
        self._handed_back: list | None = None
        self._is_in_charge = self._is_compared = False
        self._flags: tuple[list, list] = [], []  # of both models, when they were alike
        self.trainable: list[str] | None = None
        self.users = self.model = self._built(model)
        if strategy is not None and not strategy_lib.is_built_under(self.users, strategy):
            self.model = scope_copy.rebuild(self.users, strategy)
        self.execution = execution or self._users_execution()
        self.options = options or getattr(self.users, "step_options", StepOptions())
        if strict:
            self.options = dataclasses.replace(self.options, strict=True)
        self._state = self._compile(arguments)
        self._users_marks = _keras.compile_marks(self.users)
        check_clips_once(self.options, self.optimizer)

    @property
    def optimizer(self) -> keras.optimizers.Optimizer:
        """The optimizer that trains the model."""
        return self._state.get("optimizer")

    @property
    def is_outdated(self) -> bool:
        """Whether the user's model has been compiled again since what is here was taken from it."""
        if self._is_in_charge or self.users in _IN_CHARGE:
            return False
        now = _keras.compile_marks(self.users)
        return len(now) != len(self._users_marks) or any(
            mark is not before for mark, before in zip(now, self._users_marks, strict=True)
        )

    def scope(self) -> contextlib.AbstractContextManager:
        """The strategy's scope, or nothing."""
        return strategy_lib.scope(self._strategy)

    def _users_execution(self):
        model = self.users
        if not model.compiled:
            return Execution()
        jit = bool(model.jit_compile) and self._strategy is None
        return Execution(eager=model.run_eagerly, jit_compile=jit and not model.run_eagerly)

    def _built(self, model):
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

    def _compile(self, given):
        users = self.users
        if users.compiled and users is self.model and all(v is None for v in given.values()):
            return _keras.compile_state(users)
        taken = _keras.compile_arguments(users) if users.compiled else {}
        arguments = {k: taken.get(k) if v is None else v for k, v in given.items()}
        checks.check_identifiers(arguments)
        if arguments["optimizer"] is None:
            raise ModelError(
                f"No optimizer for {type(users).__name__}. Pass `optimizer` "
                '(for example optimizer="adam"), or compile the model.'
            )
        if checks.is_without_loss(users, arguments["loss"]):
            raise ModelError(
                f"No loss for {type(users).__name__}. Pass `loss` (for example "
                'loss="mse"), compile the model, or use `add_loss` in it.'
            )
        before = _keras.compile_state(self.model)
        try:
            _keras.clear_compile_state(self.model)
            with self.scope():
                arguments["optimizer"] = self._own_optimizer(arguments["optimizer"])
                _keras.base_compile(
                    self.model,
                    **arguments,
                    run_eagerly=self.execution.eager,
                    jit_compile=self.execution.jit_compile,
                )
            return _keras.compile_state(self.model)
        finally:
            _keras.set_compile_state(self.model, before)

    def _own_optimizer(self, optimizer):
        made = scope_copy.optimizer_for(optimizer, self._strategy)
        if self._strategy is not None and made is not optimizer:
            self._users_optimizer = optimizer
        return made

    @contextlib.contextmanager
    def in_charge(self, trains: bool = False) -> Iterator[keras.Model]:
        """Inside, the model carries this compile state, in the scope.

        Args:
            trains: the user's own model and optimizer are given afterwards what
                was trained in their stead, also where an error ends it.
        """
        if self._is_in_charge:  # asked for by a callback of `fit`: all is in place
            yield self.model
            return
        self._copy_state_in()
        users = _keras.compile_state(self.model)
        options = _keras.set_step_options(self.model, self.options)
        _keras.set_compile_state(self.model, self._state)
        self._is_in_charge, was_in_charge = True, self.model in _IN_CHARGE
        _IN_CHARGE.add(self.model)
        try:
            with self.scope(), _keras.base_method_replaced(self.model, "compile", self._refuse):
                yield self.model
        finally:
            self._is_in_charge = False
            if not was_in_charge:
                _IN_CHARGE.discard(self.model)
            self._state = _keras.compile_state(self.model)
            _keras.set_compile_state(self.model, users)
            _keras.set_step_options(self.model, options)
            if trains and self.users.built and self.model.built:
                self._hand_back()

    def _refuse(self, *args, **kwargs):
        """Stands in for ``compile`` of a model in charge."""
        raise ModelError(
            f"`compile` of {type(self.users).__name__} was called while a Trainer runs, by a callback "
            "or by the model's own code. The training has compiled the model already: to change the "
            "loss or the optimizer, end it, and compile the model before the next; a learning rate may be "
            "assigned at any time."
        )

    def build_users(self, x: Any) -> None:
        """Before a copy in the scope is used: both have the same initial state, and outputs.

        Args:
            x: an input batch.

        Raises:
            ModelError: the copy is another model.
        """
        if self.users is self.model or self._is_compared:
            return
        unbuilt = [model for model in (self.users, self.model) if not model.built]
        shapes = _keras.as_symbolic(x)
        for model in unbuilt:
            _keras.output_spec(lambda x, m=model: _keras.forward(m, x, training=False), shapes)
        if unbuilt:
            self._copy_state_in()
        scope_copy.check_same_outputs(self.users, self.model, x)
        self._is_compared = True

    def _copy_state_in(self):
        """Gives the copy the state of the user's model, which may have changed."""
        if self.users is self.model:
            return
        scope_copy.copy_trainable(self.users, self.model)
        self._note_flags()
        if self.users.built and self.model.built:
            scope_copy.copy_state(self.users, self.model)

    def _note_flags(self):
        self._flags = _keras.trainable_flags(self.users), _keras.trainable_flags(self.model)

    def copy_flags(self) -> None:
        """Lets both models train the same layers, where callbacks have changed them in one."""
        if self.users is self.model:
            return
        if _keras.trainable_flags(self.model) != self._flags[1]:
            scope_copy.copy_trainable(self.model, self.users)
        elif _keras.trainable_flags(self.users) != self._flags[0]:
            scope_copy.copy_trainable(self.users, self.model)
        self._note_flags()

    def take_over_optimizer(self) -> None:
        """Copies the state of the user's optimizer, if it was changed since it was handed back."""
        if self._handed_back is None or self._handed_back != self._numbers():
            scope_copy.copy_optimizer(self._users_optimizer, self.model.optimizer)

    def _numbers(self):
        """The user's optimizer's single numbers, such as its learning rate and iterations."""
        return scope_copy.optimizer_numbers(self._users_optimizer)

    def _hand_back(self):
        if self.users is not self.model:
            self.copy_flags()
            scope_copy.copy_state(self.model, self.users)
        with _keras.trainable_as(self.users, self.trainable):
            variables = self.users.trainable_variables
        scope_copy.copy_optimizer(self.optimizer, self._users_optimizer, variables)
        self._handed_back = self._numbers()
