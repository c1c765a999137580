"""What `kerastrain doctor` shows: versions, devices, and what works on this machine.

::

    from kerastrain.cli import doctor

    report = doctor.examine()
    print(doctor.as_dict(report)["devices"]["CPU cores"]["found"])
    print(doctor.works(report))

The ranges of versions are those of the package's own metadata. Nothing is imported before the
first part of the report is there, so that it can say why an import fails.
"""

import contextlib
import glob
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from typing import Literal
from typing import NamedTuple

import rich.box
import rich.markup
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion
from rich.table import Table

from kerastrain import file_locks
from kerastrain import versions
from kerastrain._version import __version__
from kerastrain.cli.quiet import quiet
from kerastrain.cli.quiet import quiet_import
from kerastrain.errors import KerastrainError
from kerastrain.options import PLANS

Status = Literal["ok", "info", "warning", "failed"]

# What works with kerastrain and is not needed by it, by the names of the distributions.
OPTIONAL = (
    "hypothesis", "ray", "plotly", "mlflow", "wandb", "tensorboard", "pandas", "pyarrow",
)  # fmt: skip
# Ways to run steps that `Trainer` chooses from; a single step of XLA is a loop of one.
TRIED = tuple(plan for plan in PLANS if plan not in ("auto", "xla_step"))
# The learning rate of the steps that are tried.
_RATE = 0.1
_SIGNS = {"ok": "[green]ok[/]", "info": "", "warning": "[yellow]![/]", "failed": "[red]failed[/]"}


class Finding(NamedTuple):
    """A line of the report.

    Attributes:
        group: the part of the report.
        name: what was looked at.
        found: what there is.
        status: ``"failed"`` where kerastrain needs it and it does not work, ``"warning"`` where
            something is worth a look, ``"info"`` where nothing is to be judged.
        remark: what is supported, or what to do.
    """

    group: str
    name: str
    found: str
    status: Status = "info"
    remark: str = ""


def examine(with_steps: bool = True) -> list[Finding]:
    """Looks at everything; no finding is an exception.

    Args:
        with_steps: whether a tiny model is trained by each way to run steps, which takes seconds.
    """
    imported, failure = _imported()
    report = [*_versions(imported), *_optional_packages(), *_system(), _cores()]
    if failure is not None:
        return [*report, failure]
    report += [_gpus(imported), *_keras(imported), _memory(), *_locks()]
    return report + ([_trained(plan, imported) for plan in TRIED] if with_steps else [])


def _imported() -> tuple[dict[str, ModuleType], Finding | None]:
    """The modules that are needed, by name, and what is wrong with their import, if anything."""
    backend, origin = _backend()
    if backend != "tensorflow":  # which may not even be installed
        remark = f"set by {origin}; kerastrain runs on TensorFlow: set KERAS_BACKEND=tensorflow"
        return {}, Finding("keras", "backend", backend, "failed", remark)
    try:
        with quiet(shows_failure=False):
            names = ("keras", "tensorflow", "numpy", "kerastrain.trainer")
            return {name: quiet_import(name) for name in names}, None
    except Exception as error:
        return {}, Finding("keras", "import", "fails", "failed", _line(error))


def _backend() -> tuple[str, str]:
    """The backend that Keras is set to, and where that is set, in the order that Keras looks."""
    if os.environ.get("KERAS_BACKEND"):
        return os.environ["KERAS_BACKEND"], "the environment variable KERAS_BACKEND"
    file = Path(os.environ.get("KERAS_HOME") or Path("~/.keras").expanduser()) / "keras.json"
    try:
        return str(json.loads(file.read_text()).get("backend", "tensorflow")), str(file)
    except (OSError, ValueError, AttributeError):  # Keras takes its default then, too
        return "tensorflow", "default"


def _line(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def works(report: list[Finding]) -> bool:
    """Whether all that kerastrain needs works."""
    return all(finding.status != "failed" for finding in report)


def as_dict(report: list[Finding]) -> dict[str, Any]:
    """The report as JSON has it: ``{group: {name: {"found": ..., "status": ..., "remark": ...}}}``.

    Example:
        >>> as_dict([Finding("devices", "GPUs", "none")])["devices"]["GPUs"]["found"]
        'none'
    """
    groups: dict[str, Any] = {"works": works(report)}
    for group, name, *rest in report:
        groups.setdefault(group, {})[name] = dict(zip(Finding._fields[2:], rest, strict=True))
    return groups


def table(report: list[Finding]) -> Table:
    """The report for people.

    Example:
        >>> table([Finding("devices", "GPUs", "none")]).row_count
        1
    """
    shown = Table(title=f"kerastrain {__version__} on this machine", box=rich.box.SIMPLE)
    for column in ("", "what", "found", "", "remark"):
        shown.add_column(column, overflow="fold")
    group = None
    for finding in report:
        if group not in (None, finding.group):
            shown.add_section()
        first = "" if finding.group == group else finding.group
        group = finding.group
        cells = map(rich.markup.escape, (finding.name, finding.found))
        shown.add_row(first, *cells, _SIGNS[finding.status], rich.markup.escape(finding.remark))
    return shown


def summary(report: list[Finding]) -> list[str]:
    """The last lines: that all works, or what does not, each in one line.

    Example:
        >>> summary([Finding("devices", "GPUs", "none")])
        ['All that kerastrain needs works here.']
    """
    return [
        f"failed: {finding.group}, {finding.name}: {finding.found}. {finding.remark}."
        for finding in report
        if finding.status == "failed"
    ] or ["All that kerastrain needs works here."]


# Versions --------------------------------------------------------------------------


def _versions(imported: dict[str, ModuleType]) -> Iterator[Finding]:
    """Python, kerastrain and what it requires, each with the range that is supported."""
    try:
        metadata = importlib.metadata.metadata("kerastrain")
    except importlib.metadata.PackageNotFoundError:
        yield Finding("versions", "python", platform.python_version())
        remark = "runs from a checkout: install it, so that versions can be checked"
        yield Finding("versions", "kerastrain", __version__, "warning", remark)
        for name in ("keras", "tensorflow", "numpy"):
            yield Finding("versions", name, _version(name, imported) or "not installed")
        return
    python = SpecifierSet(metadata["Requires-Python"] or "")
    yield _judged("versions", "python", platform.python_version(), python)
    same = metadata["Version"] == __version__
    remark = "" if same else f"{metadata['Version']} is installed: install this one to check"
    yield Finding("versions", "kerastrain", __version__, "ok" if same else "warning", remark)
    for requirement in _requirements():
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            found = _version(requirement.name, imported)
            judged = _judged("versions", requirement.name, found, requirement.specifier)
            tested = versions.TESTED.get(judged.name)
            if (
                judged.status == "ok"
                and tested
                and not versions.is_tested(judged.name, judged.found)
            ):
                remark = f"was not tested; {tested[0]} to {tested[-1]} were"
                judged = judged._replace(status="warning", remark=remark)
            yield judged


def _optional_packages() -> Iterator[Finding]:
    """Those of `OPTIONAL`, with the extra that brings them: the one that brings the least."""
    extras: dict[str, dict[str, SpecifierSet]] = {}
    for requirement in _requirements():
        name = str(requirement.marker or "").partition("extra ==")[2].strip(" \"'")
        if name:
            extras.setdefault(name, {})[requirement.name] = requirement.specifier
    for package in OPTIONAL:
        bringing = [extra for extra in extras if package in extras[extra]]
        extra = min(bringing, key=lambda extra: len(extras[extra]), default=None)
        source = package if extra is None else f"'kerastrain[{extra}]'"
        install = f"pip install {source}"
        found = _version(package)
        if found is None:
            yield Finding("optional", package, "not installed", "info", install)
        elif extra is None:
            yield Finding("optional", package, found, "info", "of no extra")
        else:
            judged = _judged("optional", package, found, extras[extra][package])
            is_supported = judged.status == "ok"
            yield judged._replace(
                status="ok" if is_supported else "warning",
                remark=f"extra {extra}" if is_supported else f"{judged.remark}: {install}",
            )


def _requirements() -> list[Requirement]:
    try:
        return [Requirement(line) for line in importlib.metadata.requires("kerastrain") or ()]
    except importlib.metadata.PackageNotFoundError:
        return []


def _version(name: str, imported: dict[str, ModuleType] | None = None) -> str | None:
    """The version that is in use, or else installed; None where it is not."""
    module = (imported or {}).get(name)
    if module is not None:  # the distribution may have another name, such as tensorflow-cpu
        return str(module.__version__)
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _judged(group: str, name: str, found: str | None, supported: SpecifierSet) -> Finding:
    """A version held against the range that is supported."""
    wanted = ",".join(sorted(map(str, supported), reverse=True))  # the least first
    try:
        is_supported = found is not None and supported.contains(found, prereleases=True)
    except InvalidVersion:
        is_supported = False
    status: Status = "ok" if is_supported else "failed"
    remark = f"needs {wanted}" if wanted else ""
    return Finding(group, name, found or "not installed", status, remark)


# The system ------------------------------------------------------------------------


def _system() -> list[Finding]:
    name = platform.system()
    with contextlib.suppress(OSError, KeyError):  # no Linux, or one that does not say
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    is_linux = sys.platform == "linux"
    remark = "" if is_linux else "kerastrain is tested on Linux only"
    return [
        Finding("system", "name", name, "ok" if is_linux else "warning", remark),
        Finding("system", "kernel", f"{platform.system()} {platform.release()}"),
        Finding("system", "processor", platform.machine()),
    ]


def _cores() -> Finding:
    """The cores that this process may use, and the share of their time where that is limited."""
    total = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    remarks = [f"of {total} in the machine"] if usable < total else []
    with contextlib.suppress(OSError, ValueError):  # no cgroup, or one without a limit, "max"
        quota, period = map(int, Path("/sys/fs/cgroup/cpu.max").read_text().split())
        remarks.append(f"limited to the time of {quota / period:g}")
    return Finding("devices", "CPU cores", str(usable), "info", ", ".join(remarks))


def _gpus(imported: dict[str, ModuleType]) -> Finding:
    """The GPUs that TensorFlow sees; a remark where the system has some that it does not."""
    config = imported["tensorflow"].config
    gpus = config.list_physical_devices("GPU")
    if gpus:
        details = [config.experimental.get_device_details(gpu) for gpu in gpus]
        names = [str(detail.get("device_name", "unknown")) for detail in details]
        return Finding("devices", "GPUs", f"{len(gpus)}: {', '.join(names)}")
    if not glob.glob("/dev/nvidia[0-9]*"):
        return Finding("devices", "GPUs", "none")
    remark = "there is one that TensorFlow does not see: pip install 'tensorflow[and-cuda]'"
    return Finding("devices", "GPUs", "none", "warning", remark)


def _keras(imported: dict[str, ModuleType]) -> list[Finding]:
    keras = imported["keras"]
    return [
        Finding("keras", "backend", keras.backend.backend(), "ok"),
        Finding("keras", "float policy", keras.config.dtype_policy().name),
    ]


# What works ------------------------------------------------------------------------


def _memory() -> Finding:
    """Whether the free memory is known, by which arrays are kept as tensors or gathered."""
    free = quiet_import("kerastrain.data").free_memory()
    if free is None:
        remark = "1 GiB of arrays is kept as tensors; pass Execution(resident_bytes=...)"
        return Finding("what works", "free memory", "unknown", "warning", remark)
    return Finding("what works", "free memory", f"{free / 2**30:.1f} GiB", "ok")


def _locks() -> Iterator[Finding]:
    """Whether the lock of a run directory below the current one excludes another process."""
    found = Finding("what works", "locks of run_dir", "work", "ok", "in the current directory")
    lock = quiet_import("kerastrain.run").Lock
    try:
        with (
            tempfile.TemporaryDirectory(prefix=".kerastrain-doctor-", dir=os.curdir) as directory,
            lock(directory),
        ):
            file = os.path.join(directory, "lock")
            command = [sys.executable, "-I", "-S", file_locks.__file__, file]
            status = subprocess.run(command, timeout=60).returncode
        if status == 0:
            remark = "two processes get one lock here: pass a run_dir on another disk"
            found = found._replace(found="do not exclude", status="failed", remark=remark)
        elif status != file_locks.IS_HELD:
            remark = f"the process that tried to take one ended with status {status}"
            found = found._replace(found="unknown", status="warning", remark=remark)
    except KerastrainError as error:
        found = found._replace(found="refused", status="failed", remark=_line(error))
    except OSError as error:  # which is fine for a training without a run directory
        remark = f"the current directory: {error.strerror}. Pass a run_dir elsewhere"
        found = found._replace(found="not tried", status="warning", remark=remark)
    yield found


def _trained(plan: str, imported: dict[str, ModuleType]) -> Finding:
    """Whether a few steps, run in this way, come to the weights that NumPy comes to."""
    keras, np = imported["keras"], imported["numpy"]
    x = np.linspace(-1, 1, 64, dtype="float32").reshape(32, 2)
    y = x @ np.array([1, -2], "float32")
    expected = np.zeros(2, "float32")
    for rows in np.split(np.arange(32), 4):
        expected -= _RATE * 2 / len(rows) * x[rows].T @ (x[rows] @ expected - y[rows])
    begun = time.perf_counter()
    try:
        # The policy is fixed, so that weights are comparable whatever Keras is set to.
        dense = keras.layers.Dense(
            1, use_bias=False, kernel_initializer="zeros", dtype="float32", name="line"
        )
        model = keras.Sequential([keras.Input((2,), dtype="float32"), dense])
        trainer = imported["kerastrain.trainer"].Trainer(
            model, optimizer=keras.optimizers.SGD(_RATE), loss="mse", seed=0, execution=plan
        )
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a plan gives way for is in the finding
            trainer.fit(x, y, batch_size=8, shuffle=False, verbose=0)
        ran = trainer.plans["train"]
        weights = np.asarray(model.get_weights()[0])[:, 0]
    except Exception as error:
        return Finding("what works", f"plan {plan}", "fails", "failed", _line(error))
    if not np.allclose(weights, expected, atol=1e-5):
        remark = f"weights {weights.tolist()}, where NumPy has {expected.tolist()}"
        return Finding("what works", f"plan {plan}", "wrong numbers", "failed", remark)
    if ran.partition(",")[0] != plan:
        return Finding("what works", f"plan {plan}", "gives way", "warning", f"to {ran}")
    seconds = f"4 steps, {time.perf_counter() - begun:.1f} s with compiling"
    return Finding("what works", f"plan {plan}", "works", "ok", seconds)
