"""The faults of `tests.mutation` can be planted."""

import ast

from tests.mutation import FAULTS
from tests.mutation import planted
from tests.mutation import ROOT


def test_faults_can_be_planted():
    """Each piece of source stands where it is looked for, once; what replaces it is Python."""
    assert 60 <= len(FAULTS) == len({fault.name for fault in FAULTS})
    for fault in FAULTS:
        right = (ROOT / "kerastrain" / fault.path).read_text(encoding="utf-8")
        wrong = planted(fault, right)
        assert ast.dump(ast.parse(wrong)) != ast.dump(ast.parse(right)), fault.name
