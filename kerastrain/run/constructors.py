"""Which attributes a constructor sets from its arguments, read from its source.

An attribute that an argument decides is part of what an object is; one that is drawn, such as a
time or a random name, is not.
"""

import ast
import functools
import inspect
import sys
import textwrap
import types
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from kerastrain.notices import is_of_others

# What gives another value in each process.
_DRAWN_FROM = ("datetime", "os", "random", "secrets", "socket", "tempfile", "time", "uuid")


@functools.lru_cache(maxsize=1024)
def set_from_arguments(kind: type) -> frozenset[str]:
    """The attributes of a class's instances that its constructors set from their arguments."""
    names: set[str] = set()
    for base in kind.__mro__:
        construct = vars(base).get("__init__")
        if isinstance(construct, types.FunctionType) and not is_of_others(base.__module__):
            names |= _arguments_and_what_they_set(construct)
    return frozenset(names)


def _arguments_and_what_they_set(construct: types.FunctionType) -> set[str]:
    """The names of a constructor's arguments, and of attributes whose values come from them.

    What may come from the time of day, say, where an argument is left out, is not meant.
    """
    own, *arguments = inspect.signature(construct).parameters
    drawn: set[str] = set()
    names, attributes = set(arguments), set(arguments)
    try:
        source = ast.parse(textwrap.dedent(inspect.getsource(construct)))
    except (OSError, SyntaxError, TypeError):  # made by `exec`, say
        draws = any(_is_drawn([n], construct.__globals__) for n in construct.__code__.co_names)
        return set() if draws else attributes
    for _ in range(2):  # what is set in a loop may be used further up
        for target, value in _assignments(source):
            used = _names_in(value)
            is_drawn = bool(used & drawn) or _draws(value, names, construct.__globals__)
            for part in ast.walk(target):
                if isinstance(part, ast.Attribute) and ast.unparse(part.value) == own:
                    attributes |= {part.attr} if used & names else set()
                    drawn |= {f"{own}.{part.attr.lstrip('_')}"} if is_drawn else set()
                elif isinstance(part, ast.Name) and part.id != own:
                    names |= {part.id} if used & names else set()
                    drawn |= {part.id} if is_drawn else set()
    return {name for name in attributes if f"{own}.{name.lstrip('_')}" not in drawn}


def _assignments(source: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """What is assigned to, with the expression of its value; tuples item by item."""
    for node in ast.walk(source):
        value: Any = getattr(node, "iter" if isinstance(node, ast.For) else "value", None)
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        for target in targets if isinstance(value, ast.AST) else ():
            parts = [one.elts if isinstance(one, ast.Tuple) else [one] for one in (target, value)]
            is_starred = any(isinstance(one, ast.Starred) for part in parts for one in part)
            if isinstance(node, ast.Assign) and len(parts[0]) == len(parts[1]) and not is_starred:
                yield from zip(*parts, strict=True)
            elif target is not None:
                yield target, value


def _draws(value: ast.AST, names: set[str], known: Mapping[str, Any]) -> bool:
    """Whether an expression calls what gives another value in each process.

    Args:
        value: the expression.
        names: those of arguments, from which what is called with them has its value.
        known: the values of other names.
    """
    for node in ast.walk(value):
        if not isinstance(node, ast.Call) or names & _names_in(*node.args, *node.keywords):
            continue
        called = ast.unparse(node.func).split(".")
        is_seeded = node.args and called[-1] in ("default_rng", "RandomState", "Random")
        if all(map(str.isidentifier, called)) and not is_seeded and _is_drawn(called, known):
            return True
    return False


def _is_drawn(called: Sequence[str], known: Mapping[str, Any]) -> bool:
    """Whether a function, by its name and those of its modules, is one of the clock's, say."""
    owner, *names = called
    value: Any = known.get(owner, sys.modules.get(owner))
    module = value
    for name in names:  # numpy.random is another one than random
        if not isinstance(value, types.ModuleType):
            break
        module, value = value, getattr(value, name, None)
    where: Any = getattr(value, "__module__", None) or getattr(module, "__name__", "")
    root, *more = where.split(".")
    return root in _DRAWN_FROM or (root == "numpy" and "random" in more)


def _names_in(*nodes: ast.AST) -> set[str]:
    return {n.id for node in nodes for n in ast.walk(node) if isinstance(n, ast.Name)}
