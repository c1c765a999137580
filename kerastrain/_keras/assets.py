"""What layers keep in files."""

from typing import Any

from keras.src.layers.preprocessing.index_lookup import IndexLookup

from kerastrain._keras.patching import patched


def load_assets(layer: Any, directory: str) -> None:
    """``layer.load_assets``, with the weights of a vocabulary too.

    Keras 3.13 passes ``idf_weights=False`` where it means those that the layer has already, and fails
    (layers/preprocessing/index_lookup.py, `load_assets`).
    """
    usual = IndexLookup.set_vocabulary

    def set_vocabulary(self: Any, vocabulary: Any, idf_weights: Any = None) -> None:
        if idf_weights is False:
            idf_weights = self.idf_weights_const.numpy()
        usual(self, vocabulary, idf_weights=idf_weights)

    with patched(IndexLookup, "set_vocabulary", set_vocabulary):
        layer.load_assets(directory)
