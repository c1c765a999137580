"""Laws of configuration: a saved metric comes back as it was."""

import inspect
import json

import keras

from kerastrain.testing.case import Case
from kerastrain.testing.laws.law import law

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
    with copy.failing_clearly("from_config(get_config())"):
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
    with copy.failing_clearly("serialisation"):
        kind = type(copy.metric)
        text = json.dumps(keras.saving.serialize_keras_object(copy.metric))
        copy.metric = keras.saving.deserialize_keras_object(
            json.loads(text), custom_objects={kind.__name__: kind}, safe_mode=False
        )
    _behaves(case, usual, copy, stream, name)


def _behaves(case, usual, copy, stream, name):
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
        if name not in config and default is inspect.Parameter.empty:
            case.fail(f"{name!r} in get_config", f"{sorted(config)}", ("", ""),
                      f"`get_config` of {kind.__name__} leaves out {name!r}.", _FIX)  # fmt: skip
        other = _other(config.get(name, default))
        if other is None:
            continue
        try:
            changed = kind.from_config({**config, name: other})
        except Exception:  # the constructor refuses this value
            continue
        case.program.append(
            f"type(a).from_config({{**a.get_config(), {name!r}: {other!r}}}).get_config()"
        )
        with subject.failing_clearly("get_config, as JSON"):
            found = json.loads(json.dumps(keras.saving.serialize_keras_object(changed)))["config"]
        told = found.get(name, default)  # a default may be left out
        if told != other:
            case.fail(f"{name}={other!r}", f"{name}={told!r}", ("given", "in get_config"),
                      f"`get_config` does not tell the value that `{name}` was given.", _FIX)  # fmt: skip


def _parameters(kind):
    """``{name: default}`` of the constructor's arguments but ``name`` and ``dtype``."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    return {p.name: p.default for p in parameters
            if p.kind in named and p.name not in ("name", "dtype")}  # fmt: skip


def _other(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 if value else 0.25
    return None
