"""What the callbacks of Keras, W&B and MLflow do with batches, by their code.

::

    use_of_batches(keras.callbacks.ModelCheckpoint("a.keras"), "train")      # "nothing"

Many batch hooks do nothing, or only count, as their callback is set; but calling them between the
steps makes small steps three to eight times as long. What each does was read in its code, so a rule
holds for that code: it is known by a digest of its source, whatever the version or the class that
has it. Hooks with any other code may act.
"""

import functools
import hashlib
import inspect
import textwrap
from collections.abc import Callable
from types import FunctionType
from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf

_BATCH_EVENTS = {
    "train": ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end"),
    "test": ("on_test_batch_begin", "on_test_batch_end"),
}


class _Rule(NamedTuple):
    """What hooks do, by the code that was read.

    Attributes:
        methods: the batch hooks of a kind, and what else the rule follows from.
        digests: of the code of these methods, and in which version of which class it was read.
        use: what they do, as their callback is set.
    """

    methods: tuple[str, ...]
    digests: dict[str, str]
    use: Callable[[Any], str]


def _writes_summaries(callback: Any) -> str:
    # Summaries of a batch go to a writer that somebody has opened, if not to one of its own.
    writes = callback.update_freq != "epoch" or tf.summary.should_record_summaries()
    return "acts" if writes or callback._should_trace else "counts"


_RULES = {
    "train": (
        _Rule(
            ("on_train_batch_end", "_should_save_on_batch"),
            {
                "76f1653582291121": "keras 3.14.0 to 3.15.1, ModelCheckpoint",
                "244a2c7ff720163d": "keras 3.13.1 and 3.13.2, ModelCheckpoint",
                "835dd1ea3f853a29": "keras 3.13.1 to 3.15.1, BackupAndRestore",
                "904533c584a22d19": "keras 3.14.0 to 3.15.1, OrbaxCheckpoint",
                "f4565b8cfcb7bbfc": "wandb 0.31.0 on keras 3.14.0 to 3.15.1, WandbModelCheckpoint",
                "e9562b7583a341ad": "wandb 0.31.0 on keras 3.13.1 and 3.13.2, WandbModelCheckpoint",
            },
            lambda callback: "nothing" if callback.save_freq == "epoch" else "acts",
        ),
        _Rule(
            ("on_train_batch_begin", "on_train_batch_end"),
            {
                "cea9b7445ab3f376": "keras 3.15.0 and 3.15.1, TensorBoard",
                "ad93d9c95e3abc32": "keras 3.13.1 to 3.14.1, TensorBoard",
            },
            _writes_summaries,
        ),
        _Rule(
            ("on_train_batch_end", "_update_progbar"),
            {"dea667dc30777521": "keras 3.13.1 to 3.15.1, ProgbarLogger"},
            lambda callback: "logs",
        ),
        _Rule(
            ("on_train_batch_end", "on_batch_end"),
            {"4127ffbe9718f32f": "wandb 0.31.0, WandbMetricsLogger"},
            lambda callback: "acts" if callback.logging_batch_wise else "counts",
        ),
        _Rule(
            ("on_batch_end",),
            {"143666842678c1fd": "mlflow 3.17.2, MlflowCallback"},
            lambda callback: "nothing" if callback.log_every_n_steps is None else "acts",
        ),
    ),
    "test": (
        _Rule(
            ("on_test_batch_begin",),
            {
                "932083b2fd805862": "keras 3.15.0 and 3.15.1, TensorBoard",
                "1759ff9f86e920d3": "keras 3.13.1 to 3.14.1, TensorBoard",
            },
            _writes_summaries,
        ),
        _Rule(
            ("on_test_batch_end", "_update_progbar"),
            {"9fa04314f4de415c": "keras 3.13.1 to 3.15.1, ProgbarLogger"},
            lambda callback: "logs",
        ),
    ),
}


def listens_to_batches(callback: keras.callbacks.Callback, kind: str) -> bool:
    """Whether a callback has batch hooks of ``kind``.

    Args:
        callback: a ``keras.callbacks.Callback``.
        kind: ``"train"`` or ``"test"``.
    """
    return bool(_hooks(callback, kind))


def use_of_batches(callback: keras.callbacks.Callback, kind: str) -> str:
    """What a callback does with batches.

    Args:
        callback: a ``keras.callbacks.Callback``.
        kind: ``"train"`` or ``"test"``.

    Returns:
        ``"nothing"``, ``"counts"`` them, reads their ``"logs"``, or may do anything: ``"acts"``.
    """
    hooks = _hooks(callback, kind)
    if not hooks:
        return "nothing"
    for rule in _RULES[kind]:
        if hooks <= {*rule.methods} and _digest(callback, rule.methods) in rule.digests:
            return rule.use(callback)
    return "acts"


def _hooks(callback: Any, kind: str) -> set[str]:
    """The batch hooks that are not those of the base class, which do nothing."""
    base = keras.callbacks.Callback
    return {
        name
        for name in _BATCH_EVENTS[kind]
        if inspect.getattr_static(callback, name, None) is not inspect.getattr_static(base, name)
    }


def _digest(callback: Any, methods: tuple[str, ...]) -> str | None:
    """Of the code of methods; None where one is missing, or no plain function."""
    found = [inspect.getattr_static(callback, name, None) for name in methods]
    if not all(isinstance(method, FunctionType) for method in found):
        return None
    return hashlib.sha256("\n".join(map(_code, found)).encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=256)
def _code(function: Callable[..., Any]) -> str:
    """The source of a function, and of what it wraps; of one without source, what is like no other."""
    try:
        lines, _ = inspect.getsourcelines(function.__code__)
    except (OSError, TypeError):
        return repr(function)
    wrapped = getattr(function, "__wrapped__", None)
    return textwrap.dedent("".join(lines)) + (_code(wrapped) if wrapped else "")
