"""Laws of configuration: a saved metric comes back as it was."""

import inspect
import json
from typing import Any

import keras

from kerastrain.testing.case import Case
from kerastrain.testing.laws.law import law
from kerastrain.testing.streams import Stream
from kerastrain.testing.subject import Subject

_REGISTER = (
    "Register what the metric is made of: `@keras.saving.register_keras_serializable()` above its "
    "class, and above the functions that it takes; and take `name` and `**kwargs`."
)
_FIX = (
    "Return every argument of the constructor from `get_config`: "
    '`return {**super().get_config(), "threshold": self.threshold}`.'
)


@law("configuration")
def config_round_trip(case: Case) -> None:
    """`from_config(get_config())` makes a metric that behaves the same."""
    stream = case.stream()
    usual, copy = case.updated(stream), case.metric()
    case.program.append("b = type(b).from_config(b.get_config())")
    name = copy.metric.name
    with copy.failing_clearly("from_config(get_config())", _REGISTER):
        copy.metric = type(copy.metric).from_config(copy.metric.get_config())
    _behaves(case, usual, copy, stream, name)


@law("configuration")
def serialisation_round_trip(case: Case) -> None:
    """Keras serialises the metric as JSON, and makes one of it that behaves the same."""
    stream = case.stream()
    usual, copy = case.updated(stream), case.metric()
    case.program.append(
        "b = keras.saving.deserialize_keras_object(json.loads(json.dumps("
        "keras.saving.serialize_keras_object(b))))"
    )
    name = copy.metric.name
    with copy.failing_clearly("serialisation", _REGISTER):
        kind = type(copy.metric)
        text = json.dumps(keras.saving.serialize_keras_object(copy.metric))
        copy.metric = keras.saving.deserialize_keras_object(
            json.loads(text), custom_objects={kind.__name__: kind}, safe_mode=False
        )
    _behaves(case, usual, copy, stream, name)


def _behaves(case: Case, usual: Subject, copy: Subject, stream: Stream, name: str) -> None:
    if copy.metric.name != name:
        case.fail(name, copy.metric.name, ("the name", "of the copy"),
                  "the constructor does not pass on `name`.",
                  "Take `name` and `**kwargs`, and pass both to `super().__init__`.")  # fmt: skip
    copy.update(stream)
    case.same(usual.result(), copy.result(), ("the metric", "made of its configuration"),
              lambda: ("`get_config` leaves out an argument of the constructor.", _FIX))  # fmt: skip


@law("configuration", fixed=True)
def arguments_survive(case: Case) -> None:
    """Every argument of the constructor is in `get_config`, and other values of it survive JSON.

    Numbers and switches are tried with a value other than the present one, where
    the constructor takes it.
    """
    subject = case.metric()
    kind = type(subject.metric)
    case.program.append("a.get_config()")
    with subject.failing_clearly("get_config"):
        config = subject.metric.get_config()
    for name, default in _parameters(kind).items():
        present = config.get(name, default)  # a default may be left out
        tried = [_changed(case, subject, name, other, default) for other in _others(present)]
        changed = [pair for pair in tried if pair is not None]
        lost = changed and all(found == _plain(present) for _, found in changed)
        if lost or (not changed and name not in config):
            given = changed[0][0] if changed else present
            case.fail(f"{name}={given!r}", f"{name}={present!r}" if changed else f"no {name!r}",
                      ("given", "in get_config"),
                      f"`get_config` of {kind.__name__} does not tell the value of {name!r}.",
                      _FIX)  # fmt: skip


def _changed(
    case: Case, subject: Subject, name: str, other: Any, default: Any
) -> tuple[Any, Any] | None:
    """``(other value, what get_config returns for it)``; None if the constructor refuses it."""
    kind = type(subject.metric)
    try:
        changed = kind.from_config({**subject.metric.get_config(), name: other})
    except Exception:
        return None
    case.program.append(
        f"type(a).from_config({{**a.get_config(), {name!r}: {other!r}}}).get_config()"
    )
    with subject.failing_clearly("get_config, as JSON", _REGISTER):
        found = json.loads(json.dumps(keras.saving.serialize_keras_object(changed)))["config"]
    return other, _plain(found.get(name, default))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _parameters(kind: Any) -> dict[str, Any]:
    """``{name: default}`` of the constructor's arguments but ``name`` and ``dtype``."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    return {p.name: p.default for p in parameters
            if p.kind in named and p.name not in ("name", "dtype")}  # fmt: skip


def _others(value: Any) -> list[Any]:
    """Other values of the same kind, to try."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value + 2]
    if isinstance(value, float):
        return [value / 2, value * 2] if value else [0.25, 0.5]
    if isinstance(value, list | tuple) and value and isinstance(value[0], int | float):
        return [type(value)([other, *value[1:]]) for other in _others(value[0])]
    return [1, [0.25]] if value is None else []
