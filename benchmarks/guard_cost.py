"""What watching over steps costs while all are finite: ``guard="raise"`` beside ``guard="off"``.

    python -m benchmarks.guard_cost                       # about ten minutes
    python -m benchmarks.guard_cost --rounds 5 --only mlp

Works are those of the speed benchmark, at the plan that is fastest for each on a CPU, pinned.
Rounds are interleaved, turn by turn, after one that compiles; the table has the median of the
rounds' ratios, their quartiles, and how much of the time checks and copies took by the trainer's
own clock, which is less noisy and does not see what they do to the steps' caches. "A listener"
has a callback that hears of each batch and may act, so that steps run one at a time.
"""

import argparse
import statistics
import time

import rich.box
import rich.console
import rich.table

import kerastrain
from benchmarks import harness
from benchmarks import speed_contenders
from benchmarks import speed_works

PLANS = {"mlp": "xla_loop", "transformer": "xla_loop", "convnet": "loop", "large": "xla_loop"}
# Epochs of a round, so that it takes about two seconds.
EPOCHS = {"mlp": 40, "transformer": 4, "convnet": 8, "large": 1}


def make_fit(work, plan, guard, epochs, callbacks):
    """Returns a function that runs a round."""
    model = speed_works.make_model(work)
    arguments = speed_works.compile_arguments(work)
    trainer = kerastrain.Trainer(model, **arguments, seed=0, execution=plan, guard=guard)
    x, y = speed_works.make_data(work)

    def fit(epochs=epochs):
        begun = time.perf_counter()
        trainer.fit(x, y, batch_size=work.batch, epochs=epochs, verbose=0, callbacks=callbacks)
        return time.perf_counter() - begun, trainer.times.seconds["checks"]

    return fit


def race(name, rounds, listener=False):
    """``((seconds, of them in checks) with, the same without)`` of each round."""
    work, plan = speed_works.WORKS[name], "loop" if listener else PLANS[name]
    if name == "large":
        work = work.sized(rows=64 * 100)
    epochs = max(1, EPOCHS[name] // (8 if listener else 1))
    callbacks = [speed_contenders.make_listener()] if listener else None
    fits = [make_fit(work, plan, guard, epochs, callbacks) for guard in ("raise", "off")]
    for fit in fits:
        fit(epochs=1)
    times = []
    for number in range(rounds):
        # Each begins in every other round: what runs second finds other caches.
        pair = [None, None]
        for index in (0, 1) if number % 2 else (1, 0):
            pair[index] = fits[index]()
        times.append(pair)
    return times


def main(arguments=None):
    """Races, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", choices=PLANS)
    options = parser.parse_args(arguments)
    table = rich.table.Table(
        "work", "off, s", "raise, s", "cost", "quartiles", "in checks", box=rich.box.SIMPLE
    )
    for name in [options.only] if options.only else PLANS:
        for listener in (False, True) if name == "mlp" else (False,):
            times = race(name, options.rounds, listener)
            shares = [100 * in_checks / seconds for (seconds, in_checks), _ in times]
            pairs = [(without[0], with_[0]) for with_, without in times]
            title = name + (", a listener" if listener else "")
            share = f"{statistics.median(shares):.2f} %"
            table.add_row(title, *harness.cost_cells(pairs), share)
    rich.console.Console().print(table)


if __name__ == "__main__":
    main()
