"""Seeds of operations, and options of ``tf.data`` pipelines."""

import contextlib
import random
from collections.abc import Iterator

import tensorflow as tf
from tensorflow.python.eager import context


def without_optimizations(options: tf.data.Options, dataset: tf.data.Dataset) -> None:
    """Lets nothing of a pipeline be made parallel or draw ahead, unless a part of it says so."""
    chosen = options.experimental_optimization
    chosen.apply_default_optimizations = False
    own = dataset.options().experimental_optimization
    for name, value in vars(type(own)).items():
        if isinstance(value, property) and getattr(own, name):
            setattr(chosen, name, False)


@contextlib.contextmanager
def seeded_operations(seed: int) -> Iterator[None]:
    """Operations that are made inside, without a seed of their own, follow this one."""
    current = context.context()
    # A generator is there only where a seed was set, or something was drawn.
    kept = {name: vars(current)[name] for name in ("_seed", "_rng") if name in vars(current)}
    current._seed, current._rng = seed, random.Random(seed)
    try:
        yield
    finally:
        del current._rng
        vars(current).update(kept)


def operation_seeds() -> tuple[int, tuple] | None:
    """Where the seeds of random operations come from that run eagerly and have none of their own.

    Returns:
        The seed that ``tf.random.set_seed`` was given, and the state of the generator of Python's
        that is behind it; None without a seed.
    """
    current = vars(context.context())
    seed, generator = current.get("_seed"), current.get("_rng")
    return None if seed is None or generator is None else (int(seed), generator.getstate())


def set_operation_seeds(seeds: tuple[int, tuple]) -> None:
    """Lets them continue where `operation_seeds` was called."""
    generator = random.Random()
    generator.setstate(seeds[1])
    current = context.context()
    current._seed, current._rng = seeds[0], generator
    current.clear_kernel_cache()  # one that has drawn from a seed would continue from there
