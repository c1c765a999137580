"""`Bind`: a metric of any part of the batch.

::

    Bind("mae", y_pred="heads.depth", y_true="depth", sample_weight="depth_weight")
    Bind(PSNR(), y_true="x.image", y_pred="restored")          # sees the inputs
"""

import inspect
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras

from kerastrain import _keras
from kerastrain.errors import MetricError
from kerastrain.validation import did_you_mean

_ROOTS = ("x", "y", "y_pred", "sample_weight")
# Where a path begins that names no root, by the argument that it is for.
_HOME = {"y_true": "y", "y_pred": "y_pred", "sample_weight": "sample_weight"}
# Names of which the shapes of the parts decide what they are.
_BY_SHAPE = ("accuracy", "acc")

Path = str | Sequence[str | int]


@keras.saving.register_keras_serializable(package="kerastrain")
class Bind(keras.metrics.Metric):
    """A metric whose arguments are parts of the batch, by path.

    For ``metrics=`` and ``weighted_metrics=`` of `Trainer` and `TrainableModel.compile`, in the list or
    in any place of it. A path is the keys on the way to a part, with dots between them: ``"heads.mask"``
    is ``y_pred["heads"]["mask"]`` where it is for ``y_pred``. ``y_true`` is looked for in ``y``,
    ``y_pred`` in the model's outputs, ``sample_weight`` in the batch's sample weights. A path that
    begins with ``x``, ``y``, ``y_pred`` or ``sample_weight`` begins there, whatever it is for, so that
    a metric can see inputs: ``"x"``, ``"x.image"``. A number stands for the place in a list: ``"0"``.

    Args:
        metric: a metric, or what ``compile`` takes for one: a name, or a function of ``(y_true, y_pred)``.
        name: what is logged; default the name of the metric.
        **paths: the arguments of the metric's ``update_state``, each with a path, or with a sequence of
            keys where one has a dot in it. Default of ``y_true`` and ``y_pred``: ``y`` and the outputs,
            whole. Default of ``sample_weight``: none in ``metrics=``, the batch's in
            ``weighted_metrics=``; of weights for each output, those on the path of ``y_true``.

    Raises:
        MetricError: the metric cannot be had, or does not take an argument; in a step, a path that leads
            nowhere.

    Example:
        >>> inputs = keras.Input((2,))
        >>> heads = {"sum": keras.layers.Dense(1)(inputs), "copy": keras.layers.Dense(2)(inputs)}
        >>> model = kerastrain.TrainableModel(inputs, heads)
        >>> seen = Bind("mae", y_true="x", y_pred="copy", name="copied")
        >>> model.compile("sgd", loss="mse", metrics=[seen])
        >>> y = {"sum": np.ones((4, 1)), "copy": np.ones((4, 2))}
        >>> history = model.fit(np.ones((4, 2)), y, verbose=0)
        >>> sorted(history.history)
        ['copied', 'copy_loss', 'loss', 'sum_loss']
    """

    def __init__(self, metric: Any, *, name: str | None = None, **paths: Path):
        found, given = None, metric
        if not (isinstance(metric, str) and metric.lower() in _BY_SHAPE):
            found = _found(metric)
            given = metric if isinstance(metric, str) or _is_function(metric) else found
        default = given if isinstance(given, str) else getattr(found, "name", None)
        super().__init__(name=name or default)
        self._given: Any = given
        self.metric = found
        self.paths = {argument: _keys(path) for argument, path in paths.items()}
        if found is not None:
            self._check_arguments(found)

    def _check_arguments(self, metric: keras.metrics.Metric) -> None:
        parameters = _parameters(metric, self.paths)
        for argument in self.paths:
            if not _takes(metric, parameters.get(argument, argument)):
                taken = inspect.signature(metric.update_state).parameters
                raise MetricError(
                    f"`update_state` of {type(metric).__name__} takes no argument {argument!r}."
                    f"{did_you_mean(argument, taken)} It takes {', '.join(taken)}."
                )

    def update_state(self, *args: Any, **kwargs: Any) -> None:
        """Refuses: it is given whole batches.

        Raises:
            MetricError: always.
        """
        raise MetricError(
            f"The metric {self.name!r} is a Bind, which takes its parts of a whole batch: pass it as "
            "`metrics` to kerastrain.Trainer, or to `compile` of a kerastrain.TrainableModel."
        )

    def update_bound(self, batch: dict[str, Any], is_weighted: bool) -> None:
        """Updates the metric.

        Args:
            batch: ``x``, ``y``, ``y_pred`` and ``sample_weight``.
            is_weighted: whether the batch's weights are for it, unless a path says which.
        """
        arguments = {"y_true": batch["y"], "y_pred": batch["y_pred"]}
        arguments |= {name: self._part(name, keys, batch) for name, keys in self.paths.items()}
        if self.metric is None:
            self.metric = _keras.metric_by_shape(
                self._given, arguments["y_true"], arguments["y_pred"], self.name
            )
        if is_weighted and "sample_weight" not in self.paths:
            arguments["sample_weight"] = batch["sample_weight"]
        weights = arguments.get("sample_weight")
        if isinstance(weights, Mapping | list | tuple):  # Keras has made one of it for each output
            keys = self.paths.get("y_true", ())
            keys = keys[1:] if keys and keys[0] == "y" else keys
            arguments["sample_weight"] = self._at(weights, keys, "sample_weight", "sample_weight")
        parameters = _parameters(self.metric, self.paths)
        arguments = {
            name: part
            for name, part in arguments.items()
            if _takes(self.metric, parameters.get(name, name))
        }
        for name in {"y_true", "y_pred"} & arguments.keys():
            self._check_is_one(name, arguments[name])
        self.metric.update_state(
            **{parameters.get(n, n): part for n, part in arguments.items() if part is not None}
        )

    def _check_is_one(self, name: str, part: Any) -> None:
        if part is None or isinstance(part, Mapping | list | tuple):
            there = f"has {_listed(part)}: give a path" if part else "is not there: give a path"
            raise MetricError(
                f'`{name}` of the metric {self.name!r} {there}, such as {name}="x" for the inputs.'
            )

    def _part(self, argument: str, keys: tuple[str | int, ...], batch: dict[str, Any]) -> Any:
        home = _HOME.get(argument, "x")
        if keys[0] in _ROOTS:
            home, keys = str(keys[0]), keys[1:]
        return self._at(batch[home], keys, argument, home)

    def _at(self, part: Any, keys: Sequence[str | int], argument: str, way: str) -> Any:
        for key in keys:
            found = _child(part, key)
            if found is None:
                there = f"It has {_listed(part)}." if _listed(part) else "It has no parts."
                raise MetricError(
                    f"The path of `{argument}` of the metric {self.name!r} leads nowhere: there is no "
                    f"{key!r} in `{way}`. {there}"
                )
            part, way = found, f"{way}.{key}"
        return part

    def result(self) -> Any:
        """The metric's."""
        return keras.ops.zeros(()) if self.metric is None else self.metric.result()

    def reset_state(self) -> None:
        """The metric's."""
        if self.metric is not None:
            self.metric.reset_state()

    def get_config(self) -> dict[str, Any]:
        """The arguments that it was made with."""
        given = self._given
        metric = given if isinstance(given, str) else keras.saving.serialize_keras_object(given)
        return {"metric": metric, "name": self.name, **{n: list(k) for n, k in self.paths.items()}}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Bind":
        """The metric that `get_config` was of."""
        metric = config["metric"]
        if not isinstance(metric, str):
            metric = keras.saving.deserialize_keras_object(metric)
        return cls(metric, **{name: value for name, value in config.items() if name != "metric"})


def _parameters(metric: keras.metrics.Metric, paths: dict[str, Any]) -> dict[str, str]:
    """What ``update_state`` calls ``y_true`` and ``y_pred``: its first two, which Keras passes by place.

    Empty where it has those names, or a path is for one of its own.
    """
    parameters = inspect.signature(metric.update_state).parameters
    first = [n for n, one in parameters.items() if one.kind is one.POSITIONAL_OR_KEYWORD][:2]
    known = {"y_true", "y_pred", *paths} & parameters.keys() - {"sample_weight"}
    return {} if known or len(first) < 2 else dict(zip(("y_true", "y_pred"), first, strict=True))


def _takes(metric: keras.metrics.Metric, argument: str) -> bool:
    parameters = inspect.signature(metric.update_state).parameters
    is_any = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    return is_any or argument in parameters


def _found(metric: Any) -> keras.metrics.Metric:
    try:
        found = keras.metrics.get(metric)
    except (ValueError, TypeError):
        found = None
    if found is None or isinstance(found, type):
        raise MetricError(
            f"`Bind` needs a metric, its name, or a function. Received: metric={metric!r}."
            f"{did_you_mean(metric, dir(keras.metrics))}"
        )
    if not isinstance(found, keras.metrics.Metric):
        name = getattr(found, "__name__", type(found).__name__)
        found = keras.metrics.MeanMetricWrapper(found, name=name)
    return found


def _is_function(metric: Any) -> bool:
    """Whether it is a function, which is saved as such: Keras cannot load a wrapper of its name."""
    return inspect.isfunction(metric)


def _keys(path: Path) -> tuple[str | int, ...]:
    if not isinstance(path, Sequence):
        raise MetricError(
            f'A path must be keys with dots between them, such as "heads.mask". Received: {path!r}. '
            "Leave out an argument for its default."
        )
    keys = tuple(path.split(".") if isinstance(path, str) else path)
    if not keys or not all(isinstance(key, int) or key for key in keys):
        raise MetricError(
            f'A path must be keys with dots between them, such as "heads.mask". Received: {path!r}.'
        )
    return keys


def _child(part: Any, key: str | int) -> Any:
    """What is there by the key; None for nothing."""
    if isinstance(part, Mapping):
        return part.get(key)
    if isinstance(part, list | tuple) and str(key).isdigit() and int(key) < len(part):
        return part[int(key)]
    return None


def _listed(part: Any) -> str:
    if isinstance(part, Mapping):
        return ", ".join(map(repr, part))
    return ", ".join(map(str, range(len(part)))) if isinstance(part, list | tuple) else ""
