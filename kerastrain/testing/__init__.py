"""Checks for the tests of your own project.

::

    from kerastrain.testing import check_equivalence

    def test_trains_the_same_on_two_replicas():
        check_equivalence(build_and_compile, (x, y), replicas=(1, 2))

Nothing in the rest of the package imports this one.
"""

from kerastrain.testing.equivalence import CutResult
from kerastrain.testing.equivalence import Difference
from kerastrain.testing.equivalence import Equivalence
from kerastrain.testing.equivalence import NotEquivalent
from kerastrain.testing.equivalence import check_equivalence

__all__ = ["CutResult", "Difference", "Equivalence", "NotEquivalent", "check_equivalence"]
