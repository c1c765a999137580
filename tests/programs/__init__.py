"""Small programs in the shapes that public examples have, each run by Keras and by `Trainer`.

::

    python -m tests.programs              # each in a process of its own, and a table
    python -m tests.programs gan vae      # these
    python -m tests.programs --execution step vq_vae

A program is a module of this package with

- ``build()``, which sets the seeds and returns ``(model, arguments)``: a compiled model, and
  what its ``fit`` is given;
- where it trains more than once, ``train(fit, model, arguments)``, which calls
  ``fit(model, **arguments)`` as often as it likes and returns the histories.

It knows nothing of kerastrain. `tests.programs.comparison` runs it by ``model.fit`` and by
``Trainer(model).fit`` from the same seeds, and then ``evaluate`` and ``predict`` by both; what
is not equal stands in `tests.programs.differences`, with the reason.

So that both can be equal at all, arrays come with ``shuffle=False`` (Keras and kerastrain draw
different orders), and data sets have a known length (of others Keras makes one update too many
in each epoch) and are shuffled by a seed and once for all (``reshuffle_each_iteration=False``:
Keras 3.15.1 begins two iterators in each epoch, and trains on every other order).
"""
