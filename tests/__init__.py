"""Tests, in folders like the package's: ``tests/step`` tests ``kerastrain/step``.

Tests of the package as a whole lie on top: `test_trainer`, `test_model`, `test_exactness`,
`test_structure`, `test_docs`. What many of them share is in ``tests/support``: models, data
sets, trainings, assertions, and programs that draw cases at random.

There are three tiers::

    python -m pytest                 # the default: after every change, minutes
    python -m pytest -m slow         # before a merge: many more cases of the same properties
    python -m pytest -m process      # before a merge: what needs processes of its own, and kills them
    python -m pytest -m ""           # all of them

The default tier notices a fault in any part of the package by itself: each property is there,
with the cases that are quick and differ most. What takes more than some seconds, or repeats the
property for a case that is much like another, is marked ``slow`` (`tests.support.tiers`); what
starts programs of its own and waits for them, ``process``. One test belongs to no tier by its
folder, so one file or one test is run with ``-m ""``, unless only its quick cases are wanted::

    python -m pytest -n 0 -m "" tests/step/test_steps.py
    python -m pytest -n 0 -m "" tests/step/test_steps.py -k masks
    python -m pytest -n 0 "tests/step/test_steps.py::test_two_outputs"

A test's docstring states its property. No test depends on how long something takes, on how many
cores there are, or on what one processor makes of NaN.
"""
