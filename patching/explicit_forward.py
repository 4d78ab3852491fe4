"""Classes whose ``__call__`` does the work, as modules with an explicit ``forward``.

A class in diffusers' style overrides ``__call__`` and has no ``forward``: calling it works, but whatever goes through
``forward`` (OneDiff's backends, hooks, export) meets nn.Module's own and fails with a bare NotImplementedError
(siliconflow/onediff#873). Here such a class gets a ``forward`` that is its ``__call__``.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from torch import nn

from ..memo import cached
from ..parsing import parse


@cached
def overrides_call(cls: type[nn.Module]) -> bool:
    """Whether a class of this module (nn.Module not counted) defines ``__call__``."""
    return cls.__call__ is not nn.Module.__call__


@cached
def needs_repair(cls: type[nn.Module]) -> bool:
    """Whether ``__call__`` does the work because ``forward`` is missing or only raises."""
    return overrides_call(cls) and (cls.forward is nn.Module.forward or only_raises(cls.forward))


@cached
def only_raises(function: Callable) -> bool:
    """Whether all that a function does, docstring and passes aside, is to raise NotImplementedError."""
    if getattr(function, "__isabstractmethod__", False):
        return True
    try:
        tree = parse(textwrap.dedent(inspect.getsource(function)))
        body = getattr(tree.body[0], "body", [])
    except Exception:  # there is no source, or it was saved while it is read
        return False
    statements = [node for node in body if not isinstance(node, ast.Pass) and not _is_constant(node)]
    if len(statements) != 1 or not isinstance(statements[0], ast.Raise):
        return False
    raised = statements[0].exc
    raised = raised.func if isinstance(raised, ast.Call) else raised
    return isinstance(raised, ast.Name) and raised.id == "NotImplementedError"


def _is_constant(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


@cached
def with_forward(cls: type) -> type[nn.Module]:
    """A module class with an explicit ``forward`` that does what calling ``cls`` does; ``cls`` itself when it has one.

    ``cls`` may be a plain class, as most of diffusers' processors are. ``forward`` is the author's own method, so its
    signature, file and line stay the author's; ``repaired_from`` is ``cls`` where it was ``__call__``.
    """
    plain = not issubclass(cls, nn.Module)
    called = "__call__" in dir(cls) and "forward" not in dir(cls) if plain else needs_repair(cls)
    if not (plain or called):
        return cls
    members: dict[str, Any] = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    if called:
        members |= {"forward": _method(cls, "__call__"), "__call__": nn.Module.__call__, "repaired_from": cls}
    if plain:

        def __init__(self: nn.Module, *args: Any, **kwargs: Any) -> None:
            nn.Module.__init__(self)
            cast(Any, cls).__init__(self, *args, **kwargs)

        members["__init__"] = __init__
    bases = (cls, nn.Module) if plain else (cls,)
    return types.new_class(cls.__name__, bases, exec_body=lambda namespace: namespace.update(members))


def _method(cls: type, name: str) -> Callable | None:
    """A method as the class or its nearest base defines it; not the metaclass's, which every plain class has."""
    return next((base.__dict__[name] for base in cls.__mro__ if name in base.__dict__), None)


def is_repaired(cls: type) -> bool:
    """Whether ``forward`` of this class is an author's ``__call__``."""
    return "repaired_from" in cls.__dict__


def repaired(module: nn.Module) -> nn.Module:
    """The module, or one with the same weights and state that has an explicit ``forward``."""
    if not needs_repair(type(module)):
        return module
    twin = object.__new__(with_forward(type(module)))
    twin.__dict__ = module.__dict__
    return twin


@contextmanager
def forwards_given(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Gives modules that lack it an explicit ``forward`` for a while, through their class: ``__call__`` is looked up
    there. Their own class comes back, also after an error."""
    lacking = [(module, type(module)) for module in modules if needs_repair(type(module))]
    try:
        for module, cls in lacking:
            module.__class__ = with_forward(cls)
        yield
    finally:
        for module, cls in lacking:
            module.__class__ = cls
