"""Where in the user's own source something happens, for messages that name a line.

::

    functions = reached(model, model.train_step)      # and the user's functions it calls
    what_is_differentiated(functions)                 # "the mean at /home/me/net.py:31"

Source may be missing, or be more than can be followed here: then the place is that of
the nearest thing that was found.
"""

import ast
import inspect
import numbers
from collections.abc import Callable
from collections.abc import Iterable
from types import FrameType
from typing import Any

import keras

from kerastrain import notices

# Syntax that stands on a line.
Node = ast.stmt | ast.expr


def is_users(thing: Any) -> bool:
    """Whether something is a class or a Python function of the user's own."""
    if not inspect.isclass(thing) and not inspect.isfunction(thing):
        return False
    return not notices.is_of_others(thing.__module__ or "")


def running() -> tuple[str, str] | None:
    """``(function, "file:line")`` of the user's code that runs now, below kerastrain's.

    None where Keras's code, called by kerastrain's, runs by itself.
    """
    frame = inspect.currentframe()
    while frame is not None and _is_kerastrains(frame):  # what asks
        frame = frame.f_back
    while frame is not None and not _is_kerastrains(frame):
        if not notices.is_passed_over(frame.f_globals.get("__name__", "")):
            return frame.f_code.co_qualname, f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return None


def _is_kerastrains(frame: FrameType) -> bool:
    module = frame.f_globals.get("__name__", "")
    return module.startswith("kerastrain.") and notices.is_of_others(module)


def plain(function: Any) -> Any:
    """The Python function below methods, decorators and ``tf.function``."""
    function = getattr(function, "python_function", function)
    return inspect.unwrap(function.__func__ if inspect.ismethod(function) else function)


def place(thing: Any, node: Node | None = None) -> str:
    """``"file:line"`` of a class or function, or of a node in its source.

    Args:
        thing: a class or function.
        node: from the syntax of ``thing``; None for its first line.
    """
    node = node or _parsed(thing)
    if node is None:
        return f"an unknown line of {thing.__qualname__}"
    return f"{inspect.getsourcefile(thing)}:{node.lineno}"


def _parsed(thing: Any) -> Node | None:
    """The syntax of a class or function, or None."""
    is_class = inspect.isclass(thing)
    kinds = (ast.ClassDef,) if is_class else (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    try:
        lines, first = inspect.findsource(thing)
        # A part of a file may be no program, for example the line of a lambda in a dict.
        tree = ast.parse("".join(lines))
    except (OSError, TypeError, SyntaxError):
        return None
    first = first + 1 if is_class else thing.__code__.co_firstlineno
    for node in ast.walk(tree):
        if isinstance(node, kinds) and getattr(node, "name", "<lambda>") == thing.__name__:
            decorators = getattr(node, "decorator_list", None)
            if first == (decorators[0] if decorators else node).lineno:
                return node
    return None


def place_of_assignment(owner: type, name: str) -> str | None:
    """Where a class of the user's own assigns ``self.<name>``, or begins; None for others."""
    classes = [c for c in owner.__mro__ if is_users(c)]
    for c in classes:
        tree = _parsed(c)
        for node in ast.walk(tree) if tree else ():
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(isinstance(t, ast.Attribute) and t.attr == name for t in targets):
                    return place(c, node)
    return place(classes[0]) if classes else None


# What a function does ---------------------------------------------------------


def reached(model: keras.Model, function: Callable[..., Any]) -> dict[Callable[..., Any], Node]:
    """The function and the user's own ones that it calls, with their syntax.

    Args:
        model: what ``self`` is in its methods.
        function: where to begin.

    Returns:
        The nearest first; empty where there is no source.
    """
    found, waiting = {}, [function]
    while waiting:
        function = plain(waiting.pop(0))
        followed = inspect.isfunction(function) and is_users(function) and function not in found
        tree = _parsed(function) if followed else None
        if tree is not None:
            found[function] = tree
            waiting += [_value(call.func, function, model) for call in _calls([tree])]
    return found


def _calls(trees: Iterable[ast.AST], *names: str) -> list[ast.Call]:
    """The calls of any of these names, or of any at all, in the order of lines."""
    nodes = (node for tree in trees for node in ast.walk(tree))
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    return sorted(
        (call for call in calls if not names or _name(call.func) in names),
        key=lambda call: call.lineno,
    )


def _name(node: ast.AST) -> str:
    return getattr(node, "attr", getattr(node, "id", ""))


def _takes_axis(call: ast.Call) -> bool:
    return any(keyword.arg == "axis" for keyword in call.keywords)


def _value(node: ast.AST, function: Any, model: keras.Model) -> Any:
    """What a name, or an attribute of one, is when the function runs; None if unknown."""
    owner = _owner(function, model)
    if isinstance(node, ast.Attribute):
        of_super = isinstance(node.value, ast.Call) and _name(node.value.func) == "super"
        of = super(owner, model) if of_super and owner else _value(node.value, function, model)
        try:
            return getattr(of, node.attr, None)
        except Exception:  # of any kind: a property of the user's own
            return None
    if not isinstance(node, ast.Name):
        return None
    code = function.__code__
    if node.id in code.co_freevars:
        try:
            return function.__closure__[code.co_freevars.index(node.id)].cell_contents
        except ValueError:  # not assigned yet
            return None
    if node.id in code.co_varnames + code.co_cellvars:
        return model if owner and node.id == code.co_varnames[0] else None
    return function.__globals__.get(node.id)


def _owner(function: Any, model: keras.Model) -> type | None:
    """The class of the model that has the function as a method, or None."""
    for owner in type(model).__mro__:
        if plain(vars(owner).get(function.__name__)) is function:
            return owner
    return None


def what_is_differentiated(functions: dict[Callable[..., Any], Node]) -> str:
    """``"the mean at <file:line>"``, or the nearest to it that was found.

    Args:
        functions: what `reached` returned for a ``train_step``.
    """
    for function, tree in functions.items():
        blocks = [node for node in ast.walk(tree) if isinstance(node, ast.With)]
        opened = [(block, [item.context_expr for item in block.items]) for block in blocks]
        tapes = [block for block, contexts in opened if _calls(contexts, "GradientTape")]
        means = _calls(tapes or [tree], "mean", "reduce_mean")
        # A mean along an axis, of each row or of a feature map, is not that of the rows.
        whole = [mean for mean in means if len(mean.args) < 2 and not _takes_axis(mean)]
        for mean in whole + means[::-1]:
            return f"the mean at {place(function, mean)}"
    for function, tree in functions.items():
        for gradient in _calls([tree], "gradient"):
            return f"the loss whose gradient is taken at {place(function, gradient)}"
    begins = [f"the loss in the step at {place(f, tree)}" for f, tree in functions.items()]
    return begins[0] if begins else "its loss"


def divides_by(functions: dict[Callable[..., Any], Node], model: keras.Model, number: int) -> bool:
    """Whether something is divided by a name or attribute whose value is ``number``.

    Multiplying by one that is its inverse counts too; a literal number does not.

    Args:
        functions: what `reached` returned.
        model: what ``self`` is in its methods.
        number: the divisor.
    """

    def equals(node: ast.AST, function: Any, wanted: float) -> bool:
        value = _value(node, function, model)
        return isinstance(value, numbers.Real) and value == wanted

    for function, tree in functions.items():
        for node in ast.walk(tree):
            divisors, factors = _operands(node)
            if any(equals(operand, function, number) for operand in divisors):
                return True
            if any(equals(operand, function, 1 / number) for operand in factors):
                return True
    return False


def _operands(node: ast.AST) -> tuple[list[ast.expr], list[ast.expr]]:
    """``(what it divides by, what it multiplies)``."""
    if isinstance(node, ast.BinOp | ast.AugAssign):
        both = [node.left, node.right] if isinstance(node, ast.BinOp) else [node.value]
        if isinstance(node.op, ast.Div):
            return both[-1:], []
        return [], both if isinstance(node.op, ast.Mult) else []
    if isinstance(node, ast.Call) and "div" in _name(node.func):
        return node.args[1:], []
    if isinstance(node, ast.Call) and "mul" in _name(node.func):
        return [], node.args
    return [], []
