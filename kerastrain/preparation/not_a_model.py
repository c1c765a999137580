"""What a `Trainer` is not: a model, or a value that can be copied. It says so, and what to write.

::

    trainer.summary()            # AttributeError: ... Write trainer.model.summary.
    pickle.dumps(trainer)        # UnsupportedTypeError: ... Pickle or copy trainer.model ...
"""

from typing import Any
from typing import NoReturn
from typing import SupportsIndex

from kerastrain.errors import UnsupportedTypeError


class NotAModel:
    """A base class of what holds a model, and compiled functions of its variables."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Called by `pickle` and `copy`, which would part the model from what is compiled for it.

        Raises:
            UnsupportedTypeError: says what can be copied.
        """
        name = type(self).__name__
        raise UnsupportedTypeError(
            f"A {name} cannot be pickled or copied: its compiled steps belong to this process and to the "
            "variables of its model. Pickle or copy trainer.model, which takes its weights along, and "
            f"make a new {name} of that. To resume a training elsewhere, with its optimizer, metrics and "
            "place in the data, pass fit(run_dir=...)."
        )


def _missing(self: Any, name: str) -> NoReturn:
    """Names the model's attribute, where that is what was asked for.

    Raises:
        AttributeError: as said.
    """
    text = f"{type(self).__name__!r} object has no attribute {name!r}"
    is_public = not name.startswith("_") and name != "model"
    if is_public and hasattr(getattr(self, "model", None), name):
        text += f": it is no keras.Model, but has one. Write trainer.model.{name}."
    raise AttributeError(text, name=name, obj=self)


# By name: to a type checker that saw it in the class, no attribute would be misspelt.
_HOOK = "__getattr__"
setattr(NotAModel, _HOOK, _missing)
