"""How fast kerastrain trains: against `model.fit`, loops by hand, JAX and PyTorch.

    python -m benchmarks.speed                         # everything: about forty minutes
    python -m benchmarks.speed --quick --only mlp      # a few steps of each: shows that it runs
    python -m benchmarks.speed --groups works,jobs --only mlp,lstm --repeat 3
    python -m benchmarks.speed --json new.json --compare old.json

Groups:

- works: six models, from NumPy arrays, each by `model.fit` with defaults; by `model.fit` at its
  best (of 1, 16 and 64 steps per execution, with and without XLA, tried before the race, the
  note says which); by a `tf.function` step called for each batch of `tf.data`; by an epoch as
  one program of XLA; and by `kerastrain.Trainer` with defaults. The perceptron also by JAX and
  PyTorch, where they are installed.
- tf.data: the perceptron from a pipeline that shuffles all rows.
- dropout: what Dropout(0.5) costs the perceptron, by kerastrain.
- callback: the perceptron with a callback that hears of each batch, from arrays and from a
  pipeline.
- evaluate: `evaluate` and `predict` of 100,000 rows, in batches of 32.
- overhead: plan ``step`` against the loop by hand, both over a pipeline of cached batches.
- first step: time until one step has ended, of a fresh process.
- jobs: total wall time, compilation included, where `model.fit` takes 5, 20 and 60 seconds.
- memory: the highest resident memory of a process.
- rows: memory and time over 10^4 to 10^7 rows of a memory-mapped file.
- replicas: 1, 2 and 4 logical devices of the same processor, global batch 256.

Rounds are of the steady state: all is compiled, and kerastrain has chosen its plan, as in a long
job; it was to run a thousand epochs, so that each plan was worth a try. What compiling and
choosing cost is in the jobs. How contenders are kept equal and apart: `speed_process`. Ratios
are medians over rounds. Not compared: final accuracy, GPUs, several machines.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from benchmarks import speed_jobs
from benchmarks import speed_report
from benchmarks.speed_process import ChildFailed
from benchmarks.speed_process import race
from benchmarks.speed_process import Result
from benchmarks.speed_process import Runner
from benchmarks.speed_works import RACED
from benchmarks.speed_works import WORKS

KERAS = ("model.fit", "model.fit, tuned", "by hand", "by hand, XLA epoch", "Trainer")
OTHERS = (
    "Keras on JAX",
    "JAX lax.scan",
    "PyTorch",
    "PyTorch, DataLoader",
    "PyTorch Lightning",
)
# So many that a minute of epochs does not learn them by heart.
JOB_ROWS = {"mlp": 51_200, "convnet": 12_800, "transformer": 8_192}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the command line asks for.

    Attributes:
        works: to be raced, of those that a group has.
        repeat: rounds or fresh processes of each, in place of a group's own number.
        quick: four steps an epoch, and one round.
    """

    works: tuple[str, ...] = RACED
    repeat: int | None = None
    quick: bool = False

    def rounds(self, usual: int) -> int:
        """How many are timed."""
        return self.repeat or (1 if self.quick else usual)

    def task(self, name: str, **options: Any) -> dict[str, Any]:
        """A task of the size that is asked for."""
        if self.quick:
            batch = options.get("batch") or WORKS[name].batch
            options |= {"rows": 4 * batch, "epochs": 1}
        return {"name": name, **options}

    def among(self, *names: str) -> list[str]:
        """Those of the works that are asked for."""
        return [name for name in names if name in self.works]


def steps_of(task: dict[str, Any]) -> int:
    """The steps of a round."""
    work = WORKS[task["name"]].sized(rows=task.get("rows"), batch=task.get("batch"))
    return work.steps * (task.get("epochs") or work.epochs)


def race_steps(
    task: dict[str, Any], contenders: Sequence[str], *, group: str, rounds: int
) -> list[Result]:
    """Races contenders on one task, in microseconds per step."""
    runners = [Runner(contender, task) for contender in contenders]
    per = steps_of(task) * 1e-6
    return race(runners, group=group, work=task["name"], rounds=rounds, per=per)


# Groups -----------------------------------------------------------------------------


def works(settings: Settings) -> list[Result]:
    """Each model by each contender, from NumPy arrays."""
    found = []
    for name in settings.among(*RACED):
        contenders = (*KERAS, *OTHERS) if name == "mlp" else KERAS
        rounds = settings.rounds(9 if name == "mlp" else 5)
        found += race_steps(settings.task(name), contenders, group="works", rounds=rounds)
    return found


def tf_data(settings: Settings) -> list[Result]:
    """The perceptron from a pipeline."""
    contenders = ("model.fit", "model.fit, tuned", "by hand", "Trainer")
    found = []
    for name in settings.among("mlp"):
        task = settings.task(name, source="tf.data")
        found += race_steps(task, contenders, group="tf.data", rounds=settings.rounds(7))
    return found


def dropout(settings: Settings) -> list[Result]:
    """The perceptron with and without Dropout: other work, so results are not compared."""
    if not settings.among("mlp"):
        return []
    without, with_it = settings.task("mlp"), settings.task("mlp_dropout")
    runners = [
        Runner("Trainer", without, "without"),
        Runner("Trainer", with_it, "with Dropout(0.5)"),
    ]
    rounds, per = settings.rounds(9), steps_of(without) * 1e-6
    return race(runners, group="dropout", work="mlp", rounds=rounds, per=per, check=False)


def callback(settings: Settings) -> list[Result]:
    """The perceptron, a step at a time, as a callback may act between two."""
    found = []
    for source in ("arrays", "tf.data") if settings.among("mlp") else ():
        task = settings.task("mlp", source=source, listens=True)
        contenders, rounds = ("model.fit", "Trainer"), settings.rounds(7)
        found += race_steps(task, contenders, group=f"callback, {source}", rounds=rounds)
    return found


def evaluate(settings: Settings) -> list[Result]:
    """What runs the model without training it."""
    found = []
    for does in ("evaluate", "predict") if settings.among("mlp") else ():
        task = {"rows": 100_000, **settings.task("mlp", epochs=1, does=does)}
        runners = [Runner("model.fit", task), Runner("Trainer", task)]
        rounds, per = settings.rounds(7), steps_of(task) * 1e-6
        found += race(runners, group="evaluate", work=does, rounds=rounds, per=per)
    return found


def overhead(settings: Settings) -> list[Result]:
    """One compiled step for each batch, by hand and by kerastrain."""
    if not settings.among("mlp"):
        return []
    task = settings.task("mlp", source="cached")
    runners = [
        Runner("by hand", task),
        Runner("Trainer", task | {"plan": "step"}, "Trainer, plan step"),
    ]
    rounds, per = settings.rounds(15), steps_of(task) * 1e-6
    return race(runners, group="overhead", work="mlp", rounds=rounds, per=per)


def first_step(settings: Settings) -> list[Result]:
    """How long one waits for the first step."""
    found = []
    for name in settings.among("mlp", "convnet", "transformer"):
        found += speed_jobs.first_step(name, repeats=settings.rounds(3))
    return found


def jobs(settings: Settings) -> list[Result]:
    """Short jobs, with all that they cost."""
    found = []
    for name in settings.among(*JOB_ROWS):
        seconds, repeats = ((5, 20, 60), (3, 2, 1)) if not settings.quick else ((1,), (1,))
        repeats = [settings.repeat or times for times in repeats]
        rows = settings.task(name).get("rows", JOB_ROWS[name])
        found += speed_jobs.short_jobs(name, seconds=seconds, repeats=repeats, rows=rows)
    return found


def memory(settings: Settings) -> list[Result]:
    """Memory of the perceptron."""
    if not settings.among("mlp"):
        return []
    rows = 1_024 if settings.quick else 100_000
    return speed_jobs.memory(rows=rows, repeats=settings.rounds(1))


def rows(settings: Settings) -> list[Result]:
    """Cost against the number of rows."""
    powers = (3,) if settings.quick else (4, 5, 6, 7)
    return speed_jobs.mapped_rows([10**power for power in powers])


def replicas(settings: Settings) -> list[Result]:
    """Cost against the number of replicas, on the same processor."""
    if not settings.among("mlp"):
        return []
    runners = []
    for contender in ("model.fit", "Trainer"):
        for count in (1, 2, 4):
            task = settings.task("mlp", batch=256, replicas=count)
            runners.append(Runner(contender, task, f"{contender}, {count} replicas"))
    rounds, per = settings.rounds(5), steps_of(runners[0].task) * 1e-6
    return race(runners, group="replicas", work="mlp, global batch 256", rounds=rounds, per=per)


GROUPS: dict[str, Callable[[Settings], list[Result]]] = {
    "works": works,
    "tf.data": tf_data,
    "dropout": dropout,
    "callback": callback,
    "evaluate": evaluate,
    "overhead": overhead,
    "first step": first_step,
    "jobs": jobs,
    "memory": memory,
    "rows": rows,
    "replicas": replicas,
}


# Command line -----------------------------------------------------------------------


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--only", help=f"these models of {','.join(RACED)}")
    parser.add_argument("--groups", help=f"these groups of {','.join(GROUPS)}")
    parser.add_argument("--repeat", type=int, help="rounds that count, of every group")
    parser.add_argument("--json", metavar="FILE", help="also write every value to FILE")
    parser.add_argument("--compare", metavar="OLD", help="also print ratios to an older FILE")
    return parser


def chosen(parser: argparse.ArgumentParser, text: str | None, known: Sequence[str]) -> tuple:
    """The names that a list names, or all."""
    names = tuple(text.split(",")) if text else tuple(known)
    if unknown := set(names) - set(known):
        parser.error(f"there is no {', '.join(sorted(unknown))}. There are: {', '.join(known)}.")
    return names


def main(arguments: Sequence[str] | None = None) -> list[Result]:
    """Runs the groups as the command line asks, and prints the tables of each when it has run."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    settings = Settings(
        works=chosen(parser, options.only, RACED), repeat=options.repeat, quick=options.quick
    )
    groups = chosen(parser, options.groups, tuple(GROUPS))
    old = speed_report.load(options.compare) if options.compare else None
    console = speed_report.make_console()
    console.print(speed_report.versions_line(), soft_wrap=True)
    results: list[Result] = []
    for group in groups:
        begun = time.perf_counter()
        try:
            found = GROUPS[group](settings)
        except ChildFailed as error:
            console.print(f"{group}: not run to its end: {error}", soft_wrap=True, markup=False)
            continue
        speed_report.print_results(found, console)
        console.print(f"{group} took {time.perf_counter() - begun:.0f} s\n")
        results += found
        if options.json:  # After each group: what follows may fail.
            speed_report.save(results, options.json)
    speed_report.print_targets(results, console)
    if options.quick:
        console.print("Quick sizes: these figures show that it runs, and nothing else.")
    if old:
        speed_report.print_comparison(results, old, console)
    return results


if __name__ == "__main__":
    main()
