"""Which of the cases of a test run always, and which in the slow tests."""

import pytest


def slow(*values, **options):
    """A case that is a slow test."""
    return pytest.param(*values, marks=pytest.mark.slow, **options)


def cases(all_of_them, quick):
    """The cases; those that are not among the quick ones are slow tests."""
    all_of_them, quick = list(all_of_them), list(quick)
    assert not [case for case in quick if case not in all_of_them]
    return [case if case in quick else slow(*_values(case)) for case in all_of_them]


def without(all_of_them, slow_ones):
    """The cases; those named second are slow tests."""
    all_of_them = list(all_of_them)
    return cases(all_of_them, [case for case in all_of_them if case not in slow_ones])


def _values(case):
    return case if isinstance(case, tuple) else (case,)
