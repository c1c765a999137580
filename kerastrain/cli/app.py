"""The verbs of the command line, and their arguments.

::

    python -m kerastrain demo
    python -m kerastrain demo --data fashion.npz --epochs 5
    python -m kerastrain check my_metrics:F1 --inputs multiclass_classification
    python -m kerastrain launch --workers 2 train.py
    python -m kerastrain report runs/a runs/b
    python -m kerastrain doctor
    python -m kerastrain fit net.py:network --data points.csv --target label --epochs 5

Each verb is one function of `app`. Exit status: 0 done, 1 a metric breaks a law, or something that
kerastrain needs does not work here, 2 wrong arguments or data, in one line on standard error;
`launch` has that of its workers; anything else is a mistake of the program and shows its traceback.
"""

import contextlib
import glob
import importlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Annotated

import rich.console
import typer

from kerastrain._version import __version__
from kerastrain.cli.quiet import quiet_import
from kerastrain.errors import ArgumentError
from kerastrain.errors import KerastrainError
from kerastrain.launch import Hosts
from kerastrain.launch import launch as launch_workers
from kerastrain.validation import did_you_mean

app = typer.Typer(
    help="A training loop for Keras 3 on TensorFlow.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

# Epochs of the demo where none are given: the digits are few and quick.
DIGITS_EPOCHS, DATA_EPOCHS = 20, 5


def main() -> None:
    """Runs the command line, as the console script does."""
    app(prog_name="kerastrain")


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns the package's own errors into a line on standard error and status 2."""
    try:
        yield
    except KerastrainError as error:
        typer.echo(f"kerastrain: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(2) from None


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kerastrain {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Options before the verb."""


@app.command()
def demo(
    data: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="An .npz file with x_train, y_train, x_test and y_test, or a directory with "
            "the four idx files of MNIST, gzipped or not. Default: the digits that the "
            "package ships.",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help=f"Default: {DIGITS_EPOCHS}, with --data {DATA_EPOCHS}."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of a training step.")] = 64,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Decides every number.")] = 0,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print the held-out accuracy only.")
    ] = False,
) -> None:
    """Train a small image classifier and show its results."""
    demo_program = quiet_import("kerastrain.cli.demo")
    with one_line_errors():
        outcome = demo_program.run(
            data,
            epochs=epochs or (DIGITS_EPOCHS if data is None else DATA_EPOCHS),
            batch_size=batch_size,
            seed=seed,
            verbose=0 if quiet else "auto",
        )
    console = rich.console.Console(highlight=False)
    if not quiet:
        console.print(demo_program.table(outcome.history))
    console.print(
        f"Held-out accuracy: {outcome.results['accuracy']:.4f} on {outcome.held_out} images "
        f"(balanced {outcome.results['balanced_accuracy']:.4f}), "
        f"trained in {outcome.seconds:.1f} s",
        soft_wrap=True,
    )


@app.command()
def check(
    metric: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:METRIC", help="A metric class, or a function that makes one."
        ),
    ],
    inputs: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="What it is fed with: binary_classification, multiclass_classification, "
            "multilabel_classification, regression, ranking, sequences, segmentation, or "
            "MODULE:NAME of a strategy of your own.",
        ),
    ] = "binary_classification",
    reference: Annotated[
        str | None, typer.Option(metavar="MODULE:FUNCTION", help="What it should equal, in NumPy.")
    ] = None,
    laws: Annotated[
        str | None,
        typer.Option(help="Laws or families, with commas; 'all' for the strict ones too."),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(help="dev (30 new examples a law), ci (30 fixed) or thorough (200)."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Decides the examples.")] = None,
) -> None:
    """Check a metric by the laws of kerastrain.testing."""
    with one_line_errors():
        testing = quiet_import("kerastrain.testing")
        named = quiet_import("kerastrain.cli.named")
        try:
            check_metric, law_error = testing.check_metric, testing.MetricLawError
        except ImportError as error:  # Hypothesis is an extra, and only this verb needs it
            raise ArgumentError(str(error)) from None
        chosen = laws if laws in (None, "all") else [name.strip() for name in laws.split(",")]
        try:
            report = check_metric(
                named.load(metric), inputs=named.inputs_named(inputs), laws=chosen,
                reference=named.load(reference) if reference else None, profile=profile, seed=seed,
            )  # fmt: skip
        except law_error as error:
            typer.echo(str(error))
            raise typer.Exit(1) from None
    typer.echo(str(report))


# What follows the script is the script's, options too.
@app.command(context_settings={"allow_interspersed_args": False})
def launch(
    script: Annotated[str, typer.Argument(metavar="SCRIPT", help="What each worker runs.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="ARGUMENTS", help="The script's own.")
    ] = None,
    *,
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine.")],
    module: Annotated[
        bool, typer.Option("--module", "-m", help="SCRIPT is a module, as in python -m.")
    ] = False,
    max_restarts: Annotated[
        int, typer.Option(min=0, help="How often all are started again when one has failed.")
    ] = 0,
    run_dir: Annotated[
        str | None, typer.Option(metavar="PATH", help="KERASTRAIN_RUN_DIR of the workers.")
    ] = None,
    grace: Annotated[float, typer.Option(min=0, help="Seconds from SIGTERM to SIGKILL.")] = 30,
    stall: Annotated[
        float, typer.Option(min=0, help="Seconds without progress that are a failure; 0: none.")
    ] = 600,
    hosts: Annotated[
        str | None, typer.Option(metavar="H1,H2,...", help="All machines of the training.")
    ] = None,
    host_index: Annotated[
        int | None, typer.Option(min=0, help="Which of them this one is, from 0.")
    ] = None,
    rendezvous: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="On a shared disk; finds the index of this machine."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Of the first worker of each host.")
    ] = None,
) -> None:
    """Start a script in several workers, and restart them all when one fails."""
    with one_line_errors():
        if not module and not os.path.exists(script):
            known = glob.glob(os.path.join(glob.escape(os.path.dirname(script)), "*.py"))
            raise ArgumentError(
                f"There is no script {script!r}. Pass the path of a file, or -m and the name of a "
                f"module.{did_you_mean(script, known)}"
            )
        several = None
        if hosts is not None:
            if port is None:
                raise ArgumentError(f"--hosts {hosts} needs --port, of the first worker of each.")
            several = Hosts(hosts.split(","), port, host_index, rendezvous)
        for name, value in (("host-index", host_index), ("rendezvous", rendezvous), ("port", port)):
            if hosts is None and value is not None:
                raise ArgumentError(f"--{name} {value} needs --hosts, the names of all machines.")
        status = launch_workers(
            [sys.executable, *(["-m"] if module else []), script, *(arguments or [])],
            workers=workers,
            max_restarts=max_restarts,
            run_dir=run_dir,
            grace=grace,
            stall=stall,
            hosts=several,
        )
    raise typer.Exit(status)


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Run directories.")],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="The page, which is replaced.")
    ] = "report.html",
) -> None:
    """Write one HTML page of runs: curves, speed, where the time went, and what differs."""
    with one_line_errors():
        path = importlib.import_module("kerastrain.report").write_report(runs, output)
    typer.echo(f"Wrote {path}")


@app.command()
def doctor(
    steps: Annotated[
        bool,
        typer.Option(
            "--steps/--no-steps",
            help="Train a tiny model by each way to run steps, which takes seconds.",
        ),
    ] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON in place of a table. Default: off.")
    ] = False,
) -> None:
    """Show versions, devices, and what works on this machine."""
    program = importlib.import_module("kerastrain.cli.doctor")
    found = program.examine(with_steps=steps)
    if as_json:
        typer.echo(json.dumps(program.as_dict(found), indent=2))
    else:
        console = rich.console.Console(highlight=False)
        console.print(program.table(found))
        console.print(*program.summary(found), sep="\n", soft_wrap=True, markup=False)
    raise typer.Exit(0 if program.works(found) else 1)


@app.command()
def fit(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODULE_OR_FILE:NAME",
            help="A keras.Model, or a function without arguments that returns one, compiled or "
            "not: net.py:network, my_package.models:network.",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            metavar="PATH",
            help="A .npz file or a directory of .npy files with x and y, or x_train and y_train; "
            "x.npy,y.npy; or a .csv or .parquet file.",
        ),
    ],
    target: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Of a .csv or .parquet file, the column that is y, or several with commas; the "
            "others are x. Default: none.",
        ),
    ] = None,
    validation_data: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Like --data. Default: x_val and y_val, or x_test and y_test, of --data, if it "
            "has them.",
        ),
    ] = None,
    validation_split: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="Of the last rows, to validate on, such as 0.2. Default: none."
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of a training step.")] = 32,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Decides every number.")] = 0,
    run_dir: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="A directory that the training is saved in and resumed from. Default: none.",
        ),
    ] = None,
    loss: Annotated[
        str | None, typer.Option(help="Such as mse. Default: that of the compiled model.")
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(help="Such as sgd. Default: that of the compiled model, else adam."),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(help="With commas, such as mae,mse. Default: those of the compiled model."),
    ] = None,
    save: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.keras", help="Where to save the trained model. Default: nowhere."
        ),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print no progress. Default: off.")
    ] = False,
) -> None:
    """Train a model of yours on the data of a file."""
    program = importlib.import_module("kerastrain.cli.fit")
    with one_line_errors():
        request = program.Request(
            *(model, data, target, validation_data, validation_split, epochs, batch_size, seed),
            *(run_dir, loss, optimizer, metrics, save),
            verbose=0 if quiet else "auto",
        )
        outcome = program.run(request)
    for line in program.lines(outcome):
        typer.echo(line)
