"""Kills trainings after every step and at random moments, and compares what they end with.

    python -m tests.support.kill_sweep                     # all of `tests.support.resuming`: hours
    python -m tests.support.kill_sweep --only most --steps 12 --moments 5

For each training: one chain of processes, each killed one step further than the one before, and
one of processes that are killed at random moments, also within steps and saves, until as many
have been. Then both go on to the end, which must be that of a training that was not killed,
bit for bit.
"""

import argparse
import pathlib
import random
import signal
import sys
import tempfile
import time

from kerastrain.testing import resume
from kerastrain.testing.fresh import FreshProcesses
from tests.support import resuming

SECONDS = 300


def train(fresh, case, place, kill=None, signals=()):
    """One process of a training; returns its exit status, which is 0 or that of a kill."""
    case = dict(case)
    parts = case.pop("make_trainer"), case.pop("data"), case.pop("callbacks", None)
    arguments = {"verbose": 0, "save_every": 1, "keep": 3} | case
    ended = fresh.run(
        resume.train_in, *parts, place, kill, arguments, seconds=SECONDS, signals=signals
    )
    if ended.status not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{ended.status}: {ended.output}")
    return ended.status


def with_steps(name, steps):
    """A training with as many epochs as make so many steps."""
    case = resuming.CASES[name]()
    per_epoch = case.get("steps_per_epoch") or resuming.STEPS.get(name, 6)
    return case | {"epochs": -(-steps // per_epoch)}


def sweep(fresh, case, directory, steps, moments, rng):
    """Kills after every step, and at random moments; returns how often."""
    whole, stepwise, anyhow = (directory / n for n in ("whole", "stepwise", "anyhow"))
    begun = time.monotonic()
    train(fresh, case, whole)
    usual = time.monotonic() - begun
    total = resume.end_of(whole)["position"]["steps"]
    for step in range(1, total + 1):
        train(fresh, case, stepwise, kill=step)
    train(fresh, case, stepwise)
    resume.check_same(whole, stepwise)
    killed = 0
    while killed < moments:
        after = rng.uniform(0.0, usual)
        if train(fresh, case, anyhow, signals=((after, signal.SIGKILL),)) == 0:
            resume.check_same(whole, anyhow)
            anyhow = directory / f"anyhow {killed}"
        else:
            killed += 1
    train(fresh, case, anyhow)
    resume.check_same(whole, anyhow)
    return total, killed


def main(arguments=None):
    """Sweeps, prints a line for each training, and fails if one differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", help=f"of {', '.join(resuming.CASES)}; separated by ;")
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    names = options.only.split(";") if options.only else list(resuming.CASES)
    failed = 0
    for name in names:
        begun = time.monotonic()
        case = with_steps(name, options.steps)
        with tempfile.TemporaryDirectory() as directory, FreshProcesses() as fresh:
            rng = random.Random(f"{options.seed} {name}")
            try:
                total, killed = sweep(
                    fresh, case, pathlib.Path(directory), options.steps, options.moments, rng
                )
                outcome = f"killed after each of {total} steps and at {killed} moments: same bits"
            except (AssertionError, RuntimeError) as error:
                failed += 1
                outcome = f"FAILED: {error}"
        print(f"{name}: {outcome} ({time.monotonic() - begun:.0f} s)", flush=True)
    print(f"{len(names)} trainings, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
