"""Run Keras's own `trainer_test.py` with another class in place of `keras.Model`.

One process for each base, since Keras keeps state in its classes::

    export KERAS_BACKEND=tensorflow
    python run_keras_trainer_test.py --json baseline.json
    python run_keras_trainer_test.py --json ours.json --base kerastrain:TrainableModel

The wheel of Keras ships the test file. It is read where it is installed, parsed,
rewritten in memory and handed to pytest under its own path, so tracebacks name
its lines; none of its text is kept here. The rules are the same for every base,
and with `keras.Model` as the base they give the baseline:

1. `keras.Model` and `models.Model` become the base.
2. `keras.Sequential`, `models.Sequential` and `keras.src.Functional` become a
   class that derives from them and, behind them, from the base: Keras's class
   gives `__init__`, `build` and `call`, the base gives `compile` and the steps.
3. The models of the file mix the backend's `Trainer` into a layer. `Trainer`
   becomes the base and moves behind the layer, whose `build` and `call` thus
   stay in front. A plain `Layer` is dropped: the base derives from it.
4. Such a model calls the `__init__` of both its parents. Here one cooperative
   `super().__init__(...)` takes the layer's arguments and reaches the base, so
   the base's `__init__` runs, and runs once.
5. Where such a model sets an attribute that is a property of `keras.Model`
   (`layers`), a plain class attribute hides the property.

Every call of the base's `train_step`, `test_step` and `compile` is counted for
each test: the report tells whether a test ran through the base or around it.
"""

import argparse
import ast
import collections
import functools
import importlib
import importlib.util
import inspect
import json
import pathlib
import sys
import tempfile
import time
import types

import keras
import pytest

MODULE = "keras.src.trainers.trainer_test"
COUNTED = ("train_step", "test_step", "compile")

# The names that rewritten code refers to; they cannot collide with Keras's.
BASE, BASES, PLACED = "_parity_base", "_parity_bases", "_parity_placed"


# The substitution -------------------------------------------------------------


def bases_with(base, *others):
    """The bases of a class that is all of `others` and then `base`."""
    return (*(other for other in others if not issubclass(base, other)), base)


@functools.cache
def placed_on(base, cls):
    """`cls`, a subclass of `keras.Model`, as a subclass of `base` too."""
    if issubclass(cls, base):
        return cls
    return type(cls.__name__, bases_with(base, cls), {})


def rewrite(source):
    """The syntax tree of `source` after the five rules.

    Raises:
        NotImplementedError: `Trainer` is used in a way that no rule covers; what
            is left of it would run without the base.
    """
    tree = _Rewrite().visit(ast.parse(source))
    left = [node.lineno for node in ast.walk(tree) if _is_trainer(node)]
    if left:
        raise NotImplementedError(
            f"Lines {left} of the test file use `Trainer` in a way that no rule "
            f"of {pathlib.Path(__file__).name} covers. Add a rule."
        )
    return ast.fix_missing_locations(tree)


class _Rewrite(ast.NodeTransformer):
    def visit_Attribute(self, node):
        dotted = ast.unparse(node)
        if dotted in ("keras.Model", "models.Model"):
            return ast.copy_location(_name(BASE), node)
        if dotted in ("keras.Sequential", "models.Sequential", "keras.src.Functional"):
            return ast.copy_location(_call(PLACED, _name(BASE), node), node)
        return self.generic_visit(node)

    def visit_ClassDef(self, node):
        others = [base for base in node.bases if not _is_trainer(base)]
        if len(others) < len(node.bases):
            bases = _call(BASES, _name(BASE), *others)
            node.bases = [ast.copy_location(ast.Starred(bases, ast.Load()), node)]
            _OneInit({ast.unparse(other) for other in others}).visit(node)
            node.body = [_hide(name) for name in _set_properties(node)] + node.body
        return self.generic_visit(node)


class _OneInit(ast.NodeTransformer):
    """Of the calls `Parent.__init__(self, ...)`, the layer's becomes `super()`'s."""

    def __init__(self, parents):
        self.parents = parents

    def visit_Expr(self, node):
        call = node.value
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            return node
        if call.func.attr != "__init__":
            return node
        if _is_trainer(call.func.value):
            return ast.copy_location(ast.Pass(), node)
        if ast.unparse(call.func.value) in self.parents:
            call.func.value = ast.copy_location(_call("super"), node)
            call.args = call.args[1:]
        return node


def _is_trainer(node):
    return isinstance(node, ast.Name) and node.id == "Trainer"


def _name(name):
    return ast.Name(name, ast.Load())


def _call(name, *arguments):
    return ast.Call(_name(name), list(arguments), [])


def _hide(name):
    return ast.Assign([ast.Name(name, ast.Store())], ast.Constant(None))


def _set_properties(class_node):
    """The names set on `self` that are properties of `keras.Model`."""
    names = {
        node.attr
        for node in ast.walk(class_node)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and ast.unparse(node.value) == "self"
    }
    return sorted(
        name
        for name in names
        if isinstance(inspect.getattr_static(keras.Model, name, None), property)
    )


# Loading and running ----------------------------------------------------------


def installed_test_file():
    """The path of the `trainer_test.py` that the installed Keras ships."""
    package = pathlib.Path(keras.__file__).parent
    path = package.joinpath(*MODULE.split(".")[1:]).with_suffix(".py")
    if not path.is_file():
        raise FileNotFoundError(
            f"Keras {keras.__version__} has no {path}. Install a Keras wheel that "
            "ships its tests, as that of 3.15.1 does."
        )
    return path


def load(source, path, base):
    """The module that `source`, of the file `path`, makes with `base`.

    Keras's file imports jax at its top for tests that other backends skip. Where
    jax is not installed, an empty module stands in for it, during the import only.
    """
    module = types.ModuleType(MODULE)
    module.__file__ = str(path)
    vars(module).update({BASE: base, BASES: bases_with, PLACED: placed_on})
    code = compile(rewrite(source), str(path), "exec")
    lacks_jax = importlib.util.find_spec("jax") is None
    if lacks_jax:
        sys.modules["jax"] = types.ModuleType("jax")
    try:
        exec(code, vars(module))
    finally:
        if lacks_jax:
            del sys.modules["jax"]
    return module


def count_calls(base, calls):
    """Counts the calls of `base`'s methods `COUNTED` in `calls`.

    The method is wrapped in the class that defines it. A subclass of `base` would
    look like a user's override of the step, which is another case.

    Returns:
        The name of that class for each method.
    """
    owners = {}
    for name in COUNTED:
        owner = next(cls for cls in base.__mro__ if name in vars(cls))
        setattr(owner, name, _counting(vars(owner)[name], calls))
        owners[name] = f"{owner.__module__}.{owner.__qualname__}"
    return owners


def _counting(method, calls):
    @functools.wraps(method)
    def counted(*args, **kwargs):
        calls[method.__name__] += 1
        return method(*args, **kwargs)

    return counted


class Recorder:
    """A pytest plugin that keeps the outcome and the counted calls of each test."""

    def __init__(self, calls):
        self.calls = calls
        self.tests = {}

    def pytest_configure(self, config):
        config.addinivalue_line(
            "markers", "requires_trainable_backend: Keras's own; TensorFlow is one"
        )

    def pytest_runtest_logstart(self, nodeid, location):
        # At once: after a time limit, the log's last line names the test that hung.
        print(_without_path(nodeid), file=sys.stderr, flush=True)
        self.calls.clear()

    def pytest_runtest_logreport(self, report):
        new = {"outcome": "passed", "message": "", "seconds": 0.0}
        test = self.tests.setdefault(_without_path(report.nodeid), new)
        test["seconds"] = round(test["seconds"] + report.duration, 3)
        test["calls"] = dict(self.calls)
        if report.outcome != "passed":
            test.update(outcome=report.outcome, message=str(report.longrepr))


def _without_path(nodeid):
    return nodeid.partition("::")[2]


def run(base_name, keyword=""):
    """Runs the file in this process, which is to do nothing else afterwards.

    Args:
        base_name: the class in place of `keras.Model`, as "module:name".
        keyword: which tests, as for pytest's `-k`. All by default.

    Returns:
        The report, a dict of JSON types.
    """
    module_name, _, attribute = base_name.partition(":")
    base = getattr(importlib.import_module(module_name), attribute)
    path = installed_test_file()
    # pytest imports the file by this name, and finds it imported.
    sys.modules[MODULE] = load(path.read_text(encoding="utf-8"), path, base)
    recorder = Recorder(collections.Counter())
    owners = count_calls(base, recorder.calls)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as root:
        # Neither the project's settings nor its conftest decide what passes here.
        settings = pathlib.Path(root, "pytest.ini")
        settings.write_text("[pytest]\n", encoding="utf-8")
        options = f"-q --tb=short --noconftest -p no:cacheprovider -c {settings}"
        status = pytest.main([*options.split(), "-k", keyword, str(path)], plugins=[recorder])
    return {
        "base": base_name,
        "keras": keras.__version__,
        "exit_status": int(status),
        "seconds": round(time.perf_counter() - start, 1),
        "owners": owners,
        "tests": recorder.tests,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--base", default="keras:Model", help="class, as module:name")
    parser.add_argument("--keyword", default="", help="which tests, as pytest's -k")
    parser.add_argument("--json", required=True, type=pathlib.Path, help="report")
    arguments = parser.parse_args()
    if keras.backend.backend() != "tensorflow":
        parser.error(
            f"the Keras backend is {keras.backend.backend()!r}. Set KERAS_BACKEND=tensorflow."
        )
    report = run(arguments.base, arguments.keyword)
    arguments.json.write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
