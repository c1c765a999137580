"""Runs the programs and prints a table; see `tests.programs`."""

import argparse
import json
import os
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

SECONDS = 600


def run_here(name, execution):
    """Runs a program in this process, and prints its result as a line of JSON."""
    import tests.conftest  # noqa: F401, the logical devices
    from tests.programs import comparison

    result = comparison.compare(name, execution)
    found = {field: getattr(result, field) for field in vars(result)}
    print("\n" + json.dumps(found | {"right": result.right}), flush=True)


def run_apart(name, execution):
    """The result of a program that runs in a process of its own, as a dict."""
    command = [sys.executable, "-m", "tests.programs", "--here", name]
    command += ["--execution", execution] if execution else []
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return {"program": name, "right": False, "failed": f"not over after {SECONDS} s"}
    if ended.returncode:
        lines = (ended.stderr + ended.stdout).strip().splitlines()
        text = next((line for line in reversed(lines) if line.strip()), "")
        return {"program": name, "right": False, "failed": f"status {ended.returncode}: {text}"}
    return json.loads(ended.stdout.strip().splitlines()[-1])


def row_of(result):
    """The cells of a program's row in the table."""
    if "failed" in result:
        return [result["program"], "failed", *[""] * (len(HEAD) - 2)]
    numbers = [result[key] for key in ("weights", "history", "evaluated", "predicted")]
    cells = ["0" if v == 0 else f"{v:.0e}" for v in numbers]
    seconds = "{:.1f} / {:.1f}".format(*result["seconds"])
    verdict = ("listed" if result["known"] else "equal") if result["right"] else "WRONG"
    return [result["program"], verdict, *cells, str(len(result["warnings"])), seconds]


HEAD = ("program", "", "weights", "history", "evaluate", "predict", "warnings", "seconds")
WIDTHS = (26, 6, 8, 8, 9, 8, 9, 13)


def line_of(cells):
    """A line of the table."""
    return " ".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)).rstrip()


def main(arguments=None) -> int:
    """Runs what the command line asks for; returns how the process should exit."""
    parser = argparse.ArgumentParser(prog="python -m tests.programs", description=__doc__)
    parser.add_argument("programs", nargs="*", help="default: all")
    parser.add_argument("--execution", help="the plan of the Trainer, such as step")
    parser.add_argument("--here", action="store_true", help="in this process, and print JSON")
    options = parser.parse_args(arguments)
    if options.here:
        for name in options.programs:
            run_here(name, options.execution)
        return 0
    from tests.programs import comparison

    print(line_of(HEAD), line_of(["-" * width for width in WIDTHS]), sep="\n", flush=True)
    wrong = 0
    for name in options.programs or comparison.names():
        result = run_apart(name, options.execution)
        print(line_of(row_of(result)), flush=True)
        for text in (*result.get("details", ()), *result.get("warnings", ())):
            print(f"    {text}", flush=True)
        if "failed" in result:
            print(f"    {result['failed']}", flush=True)
        if result.get("known"):
            print(f"    Listed: {result['known']}", flush=True)
        wrong += not result["right"]
    print(f"{wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
