"""Rules on whether a module can be called at all.

OneDiff meets such a module in the middle of a compiled graph and fails with a bare NotImplementedError
(siliconflow/onediff#873).
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from typing import ClassVar

from torch import nn

from ..processors.cached import cached
from .rule import Hit, Layer, Rule, Subject, rule


class Completeness(Rule):
    """A rule on a module's class. An instance's own ``forward`` counts as complete."""

    layer: ClassVar[Layer] = "completeness"

    def applies(self, cls: type[nn.Module]) -> bool:
        raise NotImplementedError

    def hits(self, subject: Subject) -> Iterator[Hit]:
        if "forward" not in subject.module.__dict__ and self.applies(type(subject.module)):
            yield Hit()


@rule
class NoForward(Completeness):
    """The class has no ``forward`` but the one that every nn.Module inherits, which raises."""

    what = "has no forward"
    why = "Calling it raises NotImplementedError."
    fix = "Define forward(self, …) in the class, with the arguments of the module that it replaces."

    def applies(self, cls: type[nn.Module]) -> bool:
        return cls.forward is nn.Module.forward and not overrides_call(cls)


@rule
class ForwardOnlyRaises(Completeness):
    """``forward`` is there, but all it does is raise NotImplementedError, or it is abstract."""

    what = "has a forward that only raises NotImplementedError"
    why = "Calling it raises that error; the computation was never written or sits in a subclass."
    fix = "Write the computation in forward, or use the subclass that has it."

    def applies(self, cls: type[nn.Module]) -> bool:
        return cls.forward is not nn.Module.forward and not overrides_call(cls) and only_raises(cls.forward)


@rule
class CallInsteadOfForward(Completeness):
    """``__call__`` does the work, and ``forward`` is missing or only raises."""

    what = "overrides __call__ instead of forward"
    why = "Compilers and hooks go through forward, which this class does not have."
    fix = "Rename __call__ to forward; nn.Module.__call__ then calls it."

    def applies(self, cls: type[nn.Module]) -> bool:
        return needs_repair(cls)


@cached
def overrides_call(cls: type[nn.Module]) -> bool:
    """Whether a class of this module (nn.Module not counted) defines ``__call__``."""
    return cls.__call__ is not nn.Module.__call__


@cached
def needs_repair(cls: type[nn.Module]) -> bool:
    """Whether ``__call__`` does the work because ``forward`` is missing or only raises."""
    return overrides_call(cls) and (cls.forward is nn.Module.forward or only_raises(cls.forward))


@cached
def only_raises(function) -> bool:
    """Whether all that a function does, docstring and passes aside, is to raise NotImplementedError."""
    if getattr(function, "__isabstractmethod__", False):
        return True
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return False
    body = getattr(tree.body[0], "body", [])
    statements = [node for node in body if not isinstance(node, ast.Pass) and not _is_constant(node)]
    if len(statements) != 1 or not isinstance(statements[0], ast.Raise):
        return False
    raised = statements[0].exc
    raised = raised.func if isinstance(raised, ast.Call) else raised
    return isinstance(raised, ast.Name) and raised.id == "NotImplementedError"


def _is_constant(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
