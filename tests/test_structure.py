"""The house keeps its rules: one order of rooms, each entered by its face; private names; sizes."""

import ast
import importlib
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "kerastrain"

# A room imports only rooms that stand before it, and these only through their faces.
ORDER = (
    *(
        "_backend",
        "_version",
        "errors",
        "notices",
        "versions",
        "validation",
        "renaming",
        "quoting",
        "run_files",
        "file_locks",
        "options",
        "fit_options",
        "old_arguments",
    ),
    "report",
    "_keras",
    "state",
    "data",
    "distribution",
    "metrics",
    "xla",
    "step",
    "execution",
    "guard",
    "run",
    "loop",
    "preparation",
    *("model", "assembly", "searches", "trainer"),
    "datasets",
    *("testing", "ray"),
    *("__init__", "examples"),
    *("launch", "cli", "__main__"),
)
LONGEST_MODULE = 400
LONGEST_FUNCTION = 60
MOST_METHODS = 15
MOST_PARAMETERS = 7
# What users call, with the arguments of Keras or options of their own, all by name.
PUBLIC = {"Trainer.__init__", "Trainer.fit", "Trainer.evaluate", "TrainableModel.compile"}
PUBLIC |= {"check_metric", "check_equivalence"}
PUBLIC |= {"fit", "launch"}  # the verbs, whose parameters are the options
# Classes whose docstring says why they have more methods.
LARGE = {"Choice", "GuardedSteps", "Run", "Runner", "SharedRun", "Source", "TrainableModel"}


def modules():
    """``(path below the package, room, syntax tree)`` of each module."""
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE)
        yield place, place.with_suffix("").parts[0], ast.parse(path.read_text(encoding="utf-8"))


def imports(tree):
    """``(module, name)`` of each name that is imported from the package, the name None for a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kerastrain":
            for alias in node.names:
                yield node.module, alias.name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "kerastrain":
                    yield alias.name, None


def failures(check):
    """What a check of ``(place, room, tree)`` says of all modules."""
    return [f"{place}: {found}" for place, room, tree in modules() for found in check(room, tree)]


def test_rooms_are_in_one_order():
    """A room imports only rooms that stand below it."""

    def check(room, tree):
        if room not in ORDER:
            yield f"add {room!r} to ORDER"
            return
        for module, name in imports(tree):
            # `from kerastrain import data` imports a room, `... import Trainer` the top.
            below = module.split(".")[1] if "." in module else name if name in ORDER else "__init__"
            if below != room and ORDER.index(below) >= ORDER.index(room):
                yield f"imports {below}, which does not stand below {room}"

    assert [] == failures(check)


def test_rooms_are_entered_by_their_faces():
    """From another room only what its ``__init__`` lists in ``__all__`` is imported."""

    def check(room, tree):
        for module, name in imports(tree):
            other = module.split(".")[1] if "." in module else None
            if other in (None, room) or not (PACKAGE / other).is_dir():
                continue
            face = importlib.import_module(f"kerastrain.{other}").__all__
            if module != f"kerastrain.{other}" or name not in face:
                yield f"imports {name} from {module}, which is not in the face of {other}"

    assert [] == failures(check)


def test_faces_say_what_they_are():
    """Each room has a docstring of more than a line; what a face lists is there."""
    for path in PACKAGE.glob("*/__init__.py"):
        if path.parent.name == "examples":  # programs, which nobody imports
            continue
        face = importlib.import_module(f"kerastrain.{path.parent.name}")
        assert len(face.__doc__.strip().splitlines()) > 1, face.__name__
        assert [] == [name for name in face.__all__ if not hasattr(face, name)]
        assert sorted(face.__all__) == face.__all__


@pytest.mark.slow
def test_the_face_of_the_package():
    """Its attributes are `__all__`; the lazy modules come when asked for, without Hypothesis."""
    program = """
import sys
import kerastrain

def public():
    return {name for name in vars(kerastrain) if not name.startswith("_")}

names = {name for name in kerastrain.__all__ if not name.startswith("_")}
assert public() == names, public() ^ names
assert {kerastrain} >= {sys.modules[getattr(kerastrain, name).__module__] for name in names}
for name in ("datasets", "metrics", "testing"):
    assert f"kerastrain.{name}" == getattr(kerastrain, name).__name__
    assert name in dir(kerastrain)
assert public() == names
assert "hypothesis" not in sys.modules
"""
    finished = subprocess.run([sys.executable, "-c", program], cwd=PACKAGE.parent, timeout=600)
    assert 0 == finished.returncode


def is_own(owner, attribute, text):
    """Whether a private attribute is of an object of this package."""
    if attribute.startswith("__") or attribute in ("_replace", "_asdict", "_fields", "_exit"):
        return True
    if isinstance(owner, ast.Call) and getattr(owner.func, "id", "") == "super":
        return True
    if isinstance(owner, ast.Name) and owner.id in ("self", "cls", "_keras", "_files"):
        return True
    return f"self.{attribute}" in text or f"{attribute}:" in text


def test_private_names_of_others_stay_in_one_folder():
    """Only `_keras` imports private modules, or reads what Keras and TensorFlow keep private."""

    def check(room, tree):
        if room == "_keras":
            return
        text = ast.unparse(tree)
        for module in ("keras.src", "tensorflow.python"):
            if module in text:
                yield f"names {module}"
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
                "getattr",
                "hasattr",
            ):
                name = str(getattr(node.args[1], "value", ""))
                if name.startswith("_") and not name.startswith("__"):
                    yield f"line {node.lineno}: {name}"
            elif isinstance(node, ast.Attribute) and node.attr.startswith("_"):
                if not is_own(node.value, node.attr, text):
                    yield f"line {node.lineno}: {ast.unparse(node)}"

    assert [] == failures(check)


def functions(tree):
    """``(name, with that of its class; function)`` of all, but for overloads."""
    owners = {f: c for c in ast.walk(tree) if isinstance(c, ast.ClassDef) for f in c.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if not any(getattr(one, "id", "") == "overload" for one in node.decorator_list):
                owner = owners.get(node)
                yield f"{owner.name}.{node.name}" if owner else node.name, node


def test_sizes():
    """Modules, functions and classes are small, and functions take few arguments."""

    def check(room, tree):
        lines = max((getattr(node, "end_lineno", 0) for node in ast.walk(tree)), default=0)
        if lines > LONGEST_MODULE:
            yield f"{lines} lines"
        methods = {}
        for name, node in functions(tree):
            documented = node.body[0] if ast.get_docstring(node) else None
            first = documented.end_lineno + 1 if documented else node.lineno
            if node.end_lineno - first >= LONGEST_FUNCTION:
                yield f"{name} has {node.end_lineno - first + 1} lines"
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            given = [one for one in given if one.arg not in ("self", "cls")]
            if len(given) > MOST_PARAMETERS and name not in PUBLIC:
                yield f"{name} has {len(given)} parameters"
            owner = name.rpartition(".")[0]
            methods[owner] = methods.get(owner, 0) + 1
        for owner, count in methods.items():
            if owner and count > MOST_METHODS and owner not in LARGE:
                yield f"{owner} has {count} methods"

    assert [] == failures(check)


def test_everything_is_documented():
    """Every module and every public name has a docstring."""

    def check(room, tree):
        if not ast.get_docstring(tree):
            yield "has no docstring"
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
                if not ast.get_docstring(node):
                    yield f"{node.name} has no docstring"

    assert [] == failures(check)
