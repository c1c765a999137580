"""Checks for the tests of your own project.

A metric, by laws::

    from kerastrain.testing import binary_classification, metric_laws

    test_my_metric = metric_laws(lambda: MyMetric(threshold=0.3), inputs=binary_classification())

A training, killed and resumed::

    from kerastrain.testing import verify_resume

    def test_survives_being_killed():
        verify_resume(make_trainer, (x, y), epochs=3)

A model, over replicas and micro-batches::

    from kerastrain.testing import check_equivalence

    def test_trains_the_same_on_two_replicas():
        check_equivalence(build_and_compile, (x, y), replicas=(1, 2))

The laws need Hypothesis: install ``kerastrain[testing]``. Nothing in the rest of the
package imports this one, and importing it starts no device of TensorFlow.
"""

import importlib
from typing import Any
from typing import TYPE_CHECKING

from kerastrain.testing.differences import CutResult
from kerastrain.testing.differences import Difference
from kerastrain.testing.differences import Equivalence
from kerastrain.testing.differences import NotEquivalent
from kerastrain.testing.equivalence import check_equivalence
from kerastrain.testing.resume import NotResumed
from kerastrain.testing.resume import verify_resume

# Imported when they are asked for: they need Hypothesis.
_OF_LAWS = {
    "check": ("check_metric", "metric_laws"),
    "report": ("MetricReport", "Outcome"),
    "inputs": (
        "Column", "arguments", "binary_classification", "multiclass_classification",
        "multilabel_classification", "ranking", "regression", "segmentation", "sequences",
    ),
    "laws": ("LAWS",),
    "streams": ("Stream",),
    "violations": ("MetricLawError",),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _OF_LAWS.items() for name in names}

__all__ = [
    "CutResult",
    "Difference",
    "Equivalence",
    "NotEquivalent",
    "NotResumed",
    "check_equivalence",
    "verify_resume",
]
__all__ += _MODULE_OF
__all__.sort()


if TYPE_CHECKING:
    from kerastrain.testing.check import check_metric as check_metric
    from kerastrain.testing.check import metric_laws as metric_laws
    from kerastrain.testing.inputs import arguments as arguments
    from kerastrain.testing.inputs import binary_classification as binary_classification
    from kerastrain.testing.inputs import Column as Column
    from kerastrain.testing.inputs import multiclass_classification as multiclass_classification
    from kerastrain.testing.inputs import multilabel_classification as multilabel_classification
    from kerastrain.testing.inputs import ranking as ranking
    from kerastrain.testing.inputs import regression as regression
    from kerastrain.testing.inputs import segmentation as segmentation
    from kerastrain.testing.inputs import sequences as sequences
    from kerastrain.testing.laws import LAWS as LAWS
    from kerastrain.testing.report import MetricReport as MetricReport
    from kerastrain.testing.report import Outcome as Outcome
    from kerastrain.testing.streams import Stream as Stream
    from kerastrain.testing.violations import MetricLawError as MetricLawError
else:  # a type checker would take every name for one that is here

    def __getattr__(name: str) -> Any:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            module = importlib.import_module(f"{__name__}.{_MODULE_OF[name]}")
        except ImportError as error:
            if error.name != "hypothesis":
                raise
            raise ImportError(
                f"kerastrain.testing.{name} needs Hypothesis. Install it with "
                "`pip install 'kerastrain[testing]'`.",
                name="hypothesis",
            ) from error
        return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
