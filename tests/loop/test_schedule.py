"""After which epochs a training is validated, and how many steps are left."""

from kerastrain.loop.schedule import is_due


def test_every_so_many_epochs():
    """Counted from the first: with 2 the second, the fourth and so on, as Keras counts them."""
    assert [False, True, False, True] == [is_due(epoch, 2) for epoch in range(4)]
    assert [True] * 3 == [is_due(epoch, 1) for epoch in range(3)]


def test_after_some_epochs():
    """A list counts them from 1."""
    assert [True, False, True] == [is_due(epoch, [1, 3]) for epoch in range(3)]
