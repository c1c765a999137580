"""TensorBoard, W&B and MLflow log the same under `Trainer` as under Keras's fit, and are resumed."""

import collections
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import _keras
from kerastrain import Trainer
from tests.support import datasets
from tests.support import tiers

X, Y, _ = datasets.regression(rows=40)
FIT = {"batch_size": 4, "epochs": 3, "validation_split": 0.25, "shuffle": False, "verbose": 0}
STRATEGIES = [None, tiers.slow("mirrored:2")]


def new_model():
    keras.utils.set_random_seed(5)
    keras.backend.clear_session(free_memory=False)  # so that layers have the same names
    layers = [keras.layers.Dense(4, activation="relu"), keras.layers.Dense(2)]
    return keras.Sequential([keras.Input(X.shape[1:]), *layers], name="line")


def by_keras(*callbacks, **fit):
    model = new_model()
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(X, Y, callbacks=[*callbacks], **{**FIT, **fit})


def by_trainer(*callbacks, strategy=None, **fit):
    trainer = Trainer(new_model(), optimizer="adam", loss="mse", metrics=["mae"], strategy=strategy)
    return trainer.fit(X, Y, callbacks=[*callbacks], **{**FIT, **fit})


# TensorBoard --------------------------------------------------------------------


def events(directory):
    """``{(directory below, tag, step): value, or None}`` of all event files, with their counts."""
    event_pb2 = pytest.importorskip("tensorboard.compat.proto.event_pb2")
    values, counts = {}, collections.Counter()
    for path in sorted(directory.rglob("*tfevents*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = event_pb2.Event.FromString(record.numpy())
            for value in event.summary.value:
                where = path.parent.relative_to(directory).name, value.tag, event.step
                counts[where] += 1
                is_scalar = value.metadata.plugin_data.plugin_name == "scalars"
                values[where] = tf.make_ndarray(value.tensor) if is_scalar else None
    return values, counts


OPTIONS = [
    {},
    {"histogram_freq": 1, "write_steps_per_second": True},
    tiers.slow({"update_freq": 2}),
    tiers.slow({"update_freq": "batch", "write_steps_per_second": True}),
]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_tensorboard(options, strategy, tmp_path):
    """Files, tags, steps and values."""
    pytest.importorskip("tensorboard")
    by_keras(keras.callbacks.TensorBoard(tmp_path / "keras", **options))
    by_trainer(keras.callbacks.TensorBoard(tmp_path / "trainer", **options), strategy=strategy)
    (expected, counts), (actual, other_counts) = (
        events(tmp_path / name) for name in ("keras", "trainer")
    )
    assert counts == other_counts
    for where, value in expected.items():
        if value is not None and "steps_per_second" not in where[1]:
            np.testing.assert_allclose(value, actual[where], rtol=1e-4, err_msg=str(where))


# W&B ----------------------------------------------------------------------------


@pytest.fixture
def wandb(tmp_path):
    """W&B without a run that is kept; what is logged is in its list ``logged``."""
    wandb = pytest.importorskip("wandb")
    with pytest.MonkeyPatch.context() as patch:
        wandb.init(mode="disabled", dir=str(tmp_path), id="first")
        wandb.logged = []
        patch.setattr(wandb, "log", wandb.logged.append)
        yield wandb
        wandb.finish()


def assert_same_logs(expected, actual):
    assert len(expected) == len(actual)
    for one, two in zip(expected, actual, strict=True):
        assert one == pytest.approx(two, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("frequency, use", [("epoch", "counts"), (2, "acts")])
def test_wandb(frequency, use, strategy, wandb):
    """What is logged, and the steps that are counted."""
    from wandb.integration.keras import WandbMetricsLogger

    loggers = WandbMetricsLogger(log_freq=frequency), WandbMetricsLogger(log_freq=frequency)
    assert use == _keras.use_of_batches(loggers[0], "train")
    by_keras(loggers[0])
    expected = wandb.logged[:]
    wandb.logged.clear()
    by_trainer(loggers[1], strategy=strategy)
    assert_same_logs(expected, wandb.logged)
    assert 24 == loggers[0].global_step == loggers[1].global_step


def test_a_checkpoint_of_wandb(wandb, tmp_path):
    """Does nothing on batches, as it is by default."""
    from wandb.integration.keras import WandbModelCheckpoint

    assert "nothing" == _keras.use_of_batches(WandbModelCheckpoint(tmp_path / "a.keras"), "train")


class Stop(keras.callbacks.Callback):
    """Interrupts a training whose first epoch is saved."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt

    def get_state(self):
        return None

    def set_state(self, state):
        pass


def test_wandb_is_resumed(wandb, tmp_path):
    """What it counts goes on; another run than before is named, with what to write."""
    from wandb.integration.keras import WandbMetricsLogger

    with pytest.raises(KeyboardInterrupt):
        by_trainer(WandbMetricsLogger(), Stop(), run_dir=tmp_path / "run")
    logger = WandbMetricsLogger()
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.warns(match="W&B run .*resume=.must.") as record,
    ):
        patch.setattr(type(wandb.run), "id", "second")
        by_trainer(logger, run_dir=tmp_path / "run")
    assert 1 == len([one for one in record if "W&B" in str(one.message)])
    assert 24 == logger.global_step


# MLflow -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory):
    """MLflow with a store of its own."""
    directory = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)  # where it puts what has no place of its own
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{directory}/store.db")
        mlflow = pytest.importorskip("mlflow")
        experiment = mlflow.create_experiment("tests", artifact_location=f"{directory}/artifacts")
        mlflow.set_experiment(experiment_id=experiment)
        yield mlflow


def metrics_of(mlflow, run_id):
    """``{name: [(step, value)]}`` that were logged to a run."""
    mlflow.flush_async_logging()
    client = mlflow.MlflowClient()
    names = client.get_run(run_id).data.metrics
    return {
        name: sorted((m.step, m.value) for m in client.get_metric_history(run_id, name))
        for name in names
    }


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [None, "mirrored:2"])
@pytest.mark.parametrize(
    "options", [{}, {"log_every_epoch": False, "log_every_n_steps": 3}], ids=str
)
def test_mlflow(options, strategy, mlflow):
    """Parameters and metrics, with their steps and values."""
    found = []
    for fit in (by_keras, lambda callback: by_trainer(callback, strategy=strategy)):
        with mlflow.start_run() as run:
            fit(mlflow.keras.MlflowCallback(**options))
        parameters = mlflow.MlflowClient().get_run(run.info.run_id).data.params
        found.append((parameters, metrics_of(mlflow, run.info.run_id)))
    (expected_parameters, expected), (parameters, actual) = found
    assert expected_parameters == parameters
    assert expected.keys() == actual.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(values, actual[name], rtol=1e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("again", [False, True])
def test_mlflow_is_resumed(again, mlflow, tmp_path):
    """Into the run of before, unless the user has begun another: then it is named."""
    with pytest.raises(KeyboardInterrupt), mlflow.start_run() as first:
        by_trainer(mlflow.keras.MlflowCallback(), Stop(), run_dir=tmp_path / "run")
    run_id = first.info.run_id
    if again:
        with mlflow.start_run(), pytest.warns(match=f"start_run.run_id='{run_id}'"):
            by_trainer(mlflow.keras.MlflowCallback(), run_dir=tmp_path / "run")
        return
    by_trainer(mlflow.keras.MlflowCallback(), run_dir=tmp_path / "run")
    assert run_id == mlflow.active_run().info.run_id
    mlflow.end_run()
    assert [0, 1, 2] == [step for step, _ in metrics_of(mlflow, run_id)["loss"]]


@pytest.mark.slow
def test_autologging_of_mlflow(mlflow):
    """Logs what calls Keras's fit: a Trainer says what to pass, until it is passed."""
    try:
        mlflow.keras.autolog(log_models=False, silent=True)
        with pytest.warns(match="mlflow has replaced.*MlflowCallback"):
            by_trainer(epochs=1)
        with warnings.catch_warnings(), mlflow.start_run() as run:
            warnings.filterwarnings("error", "mlflow has replaced")
            by_trainer(mlflow.keras.MlflowCallback(), epochs=1)
        assert "loss" in metrics_of(mlflow, run.info.run_id)
    finally:
        mlflow.keras.autolog(disable=True, silent=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "mlflow has replaced")
        by_trainer(epochs=1)


def test_another_package_that_replaces_fit(monkeypatch):
    """Is named."""
    names = {"__name__": "another.logging"}
    exec("def fit(self, *args, **kwargs): return None", names)
    monkeypatch.setattr(keras.Model, "fit", names["fit"])
    with pytest.warns(match="another has replaced.*a callback of another"):
        by_trainer(epochs=1)
