"""The house keeps its rules: one way for imports, private names in one folder, sizes."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "kerastrain"
MODULES = sorted(PACKAGE.rglob("*.py"))

# A module imports from earlier rows only.
LAYERS = (
    ("_version", "errors", "notices"),
    ("_keras", "options", "choice", "progress", "random_numbers", "timing", "signals"),
    ("python_state",),
    ("walk", "layer_states", "xla_support"),
    ("unsaved_state", "tables"),
    ("checkpoint", "state_trees", "callbacks", "saving", "lock", "best", "variables", "model_state"),
    ("between", "finite", "rollback"),
    ("xla",),
    ("digests", "memory", "torch_states"),
    ("global_random",),
    ("blocks", "stacks", "data_checks", "indexed", "drawn", "open_rows"),
    ("passes", "cursor", "loops"),
    ("rows", "gradients", "replicas", "merging", "loss", "metrics", "strategy", "scoped", "data", "named_data", "schedule", "datasets"),
    ("step", "dry", "user_code"),
    ("trial_calls", "logits"),
    ("mixing",),
    ("lint", "logged_values"),
    ("execution",),
    ("runner", "diagnosis"),
    ("guard", "evaluation"),
    ("fit_loops",),
    ("model",),
    ("checks", "target_checks", "own_methods"),
    ("descriptions", "identity", "training_state", "run"),
    ("fit_loop",),
    ("compiled",),
    ("preparation", "prediction"),
    ("trainer",),
    ("testing",),
    ("__init__",),
    ("demo", "examples", "__main__"),
)
# Within a row, these may be imported by the others of the row.
FIRST_OF_THEIR_ROW = ("choice", "open_rows", "blocks", "stacks", "passes", "rows", "gradients", "replicas", "merging", "step", "data", "state_trees", "checkpoint", "callbacks", "descriptions", "identity", "training_state", "demo", "datasets", "examples")
LONGEST_MODULE = 500
LONGEST_FUNCTION = 60


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path):
    """The modules of this package that a file imports."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kerastrain"):
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (
                a.name.split(".")[1] for a in node.names if a.name.startswith("kerastrain.")
            )


def layer_of(name):
    for number, names in enumerate(LAYERS):
        if name in names:
            return number
    return None


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
class TestModule:
    def test_has_a_layer(self, path):
        """Every module has its place in the order of imports."""
        assert layer_of(name_of(path)) is not None, f"add {name_of(path)!r} to LAYERS"

    def test_imports_go_one_way(self, path):
        """A module imports earlier layers, or the first ones of its own."""
        own, here = name_of(path), layer_of(name_of(path))
        for name in imported(path):
            there = layer_of(name)
            if name == own or there is None or path == PACKAGE / "__init__.py":
                continue
            if own in ("examples", "demo", "__main__"):
                continue
            assert there < here or (there == here and name in FIRST_OF_THEIR_ROW), (
                f"{own} (layer {here}) imports {name} (layer {there})"
            )

    def test_private_names_of_others_stay_in_one_folder(self, path):
        """Only `_keras` imports private modules, or reads a Keras object's `_name`."""
        if name_of(path) == "_keras":
            return
        text = path.read_text(encoding="utf-8")
        assert "keras.src" not in text
        assert "tensorflow.python" not in text
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr"):
                name = str(getattr(node.args[1], "value", ""))
                assert not name.startswith("_") or name.startswith("__")
        for node in ast.walk(parsed(path)):
            if not isinstance(node, ast.Attribute) or not node.attr.startswith("_"):
                continue
            owner = node.value
            own = isinstance(owner, ast.Name) and owner.id in ("self", "cls", "_keras", "_files")
            own = own or node.attr.startswith("__") or node.attr in ("_replace", "_asdict", "_fields", "_exit")
            own = own or (isinstance(owner, ast.Call) and getattr(owner.func, "id", "") == "super")
            own = own or f"self.{node.attr}" in text or f"{node.attr}:" in text
            assert own, f"line {node.lineno}: {ast.unparse(node)}"

    def test_sizes(self, path):
        """Modules stay near 400 lines, functions near 60."""
        assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_MODULE
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                documented = node.body[0] if ast.get_docstring(node) else None
                first = documented.end_lineno + 1 if documented else node.lineno
                assert node.end_lineno - first < LONGEST_FUNCTION, node.name

    def test_is_documented(self, path):
        """Every module and every public name has a docstring."""
        tree = parsed(path)
        assert ast.get_docstring(tree)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
                assert ast.get_docstring(node), node.name
