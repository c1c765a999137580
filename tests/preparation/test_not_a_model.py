"""A `Trainer` says what it is not, and what to write instead; what it says to write works."""

import copy
import pickle

import keras
import numpy as np
import pytest

from kerastrain import Trainer
from kerastrain import UnsupportedTypeError
from tests.support import datasets
from tests.support import models

X, Y, _ = datasets.regression(rows=8)


def pickled(thing):
    return pickle.loads(pickle.dumps(thing))


def trainer_of(model):
    return Trainer(model, optimizer=keras.optimizers.SGD(0.05), loss="mse", seed=0)


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_a_copy_of_its_model_trains_on(copied):
    """It refuses to be copied; its model can be, with the weights."""
    trainer = trainer_of(models.mlp())
    for _ in range(2):  # before and after it has compiled steps
        with pytest.raises(UnsupportedTypeError, match=r"copy trainer\.model"):
            copied(trainer)
        trainer.fit(X, Y, verbose=0)
    model = copied(trainer.model)
    assert model is not trainer.model
    for wanted, got in zip(trainer.model.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(wanted, got)
    wanted = trainer.fit(X, Y, verbose=0).history
    assert wanted == trainer_of(model).fit(X, Y, verbose=0).history


def test_the_models_attributes():
    """The error names the place of what a model has, and of nothing else."""
    trainer = trainer_of(models.mlp())
    with pytest.raises(AttributeError, match=r"no keras\.Model.* Write trainer\.model\.summary\."):
        trainer.summary()
    for name in ("sumary", "_layers", "__deepcopy__"):
        with pytest.raises(AttributeError, match=f"no attribute '{name}'$"):
            getattr(trainer, name)
    assert not hasattr(trainer, "compiled")
