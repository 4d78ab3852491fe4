"""Reads the source of one function."""

from __future__ import annotations

import ast
import builtins
import inspect
import sys
import types
from typing import Any

from torch import nn

from .spots import Code, Spot

_MUTATORS = frozenset(
    {"append", "appendleft", "add", "clear", "discard", "extend", "insert", "pop", "popitem", "popleft", "remove"}
    | {"setdefault", "update"}
)
_CHECKS_FOR_COMPILING = frozenset({"is_compiling", "is_dynamo_compiling"})


class Reader(ast.NodeVisitor):
    """Reads one function. ``reached`` are functions that it calls, with the module that a method belongs to."""

    def __init__(self, function: types.FunctionType, owner: Any, found: Code):
        self.function, self.owner, self.found = function, owner, found
        self.file = function.__code__.co_filename
        self.reached: list[tuple[Any, Any]] = []
        self.locals: set[str] = set(function.__code__.co_varnames)
        self.imported: dict[str, Any] = {}
        self.declared: set[str] = set()
        arguments = function.__code__.co_varnames[: function.__code__.co_argcount]
        self.self_name = arguments[0] if arguments and owner is not None else None

    def read(self, tree: ast.AST) -> None:
        root = next((n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.Lambda)), None)
        if root is None:
            return
        for node in ast.walk(root):
            if isinstance(node, ast.Global):
                self.declared |= set(node.names)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    name = alias.asname or alias.name.partition(".")[0]
                    self.imported[name] = sys.modules.get(alias.name if alias.asname else name)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                for alias in node.names:
                    self.imported[alias.asname or alias.name] = getattr(
                        sys.modules.get(node.module or ""), alias.name, None
                    )
        self._note(self.found.spans, root, self.function.__qualname__)
        for node in [root.body] if isinstance(root, ast.Lambda) else root.body:
            self.visit(node)
        self._note_early_return(root)

    def _note(self, where: list[Spot], node: Any, name: str, text: str = "") -> None:
        where.append(Spot(name, self.file, node.lineno, node.end_lineno, text or name))

    # Values.

    def resolve(self, node: ast.expr) -> Any:
        """The object that a name or dotted name stands for, None when it cannot be told without running."""
        if isinstance(node, ast.Name):
            if node.id in self.imported:
                return self.imported[node.id]
            if node.id == self.self_name:
                return self.owner
            cells = dict(zip(self.function.__code__.co_freevars, self.function.__closure__ or (), strict=False))
            if node.id in cells:
                return _cell(cells[node.id])
            if node.id in self.locals and node.id not in self.declared:
                return None
            return self.function.__globals__.get(node.id, getattr(builtins, node.id, None))
        if isinstance(node, ast.Attribute):
            owner = self.resolve(node.value)
            if isinstance(owner, types.ModuleType | type):
                return getattr(owner, node.attr, None)
            if isinstance(owner, nn.Module):
                kept = (owner.__dict__, owner._modules)
                own = next((d[node.attr] for d in kept if node.attr in d), None)
                return inspect.getattr_static(type(owner), node.attr, None) if own is None else own
        return None

    def name_of(self, node: ast.expr) -> str:
        """The full name of what is called: "random.random", "logging.Logger.debug", "" when unknown."""
        if isinstance(node, ast.Subscript):
            return self.name_of(node.value)
        value = self.resolve(node)
        if isinstance(node, ast.Attribute):
            owner = self.resolve(node.value)
            if isinstance(owner, types.ModuleType):
                return f"{owner.__name__}.{node.attr}"
            if owner is not None and not isinstance(owner, nn.Module | type):
                return f"{type(owner).__module__}.{type(owner).__qualname__}.{node.attr}"
            if owner is None and value is None:
                inner = self.name_of(node.value)
                return f"{inner}.{node.attr}" if inner else ""
        if value is None and isinstance(node, ast.Call):
            return self.name_of(node.func)
        module = getattr(value, "__module__", None) or type(value).__module__
        name = getattr(value, "__qualname__", None)
        if value is None or module is None:
            return ""
        return f"{module}.{name}" if name else f"{type(value).__module__}.{type(value).__qualname__}"

    # What there is.

    def visit_Call(self, node: ast.Call) -> None:
        name = self.name_of(node.func)
        value = self.resolve(node.func)
        if name:
            disabled = bool(getattr(value, "_torchdynamo_disable", False))
            self._note(self.found.calls, node, f"disabled {name}" if disabled else name, ast.unparse(node.func))
        function = node.func
        if isinstance(function, ast.Attribute) and (function.attr in _MUTATORS or function.attr.endswith("_")):
            self._write(function.value, node)
        for callee in (value, *(self.resolve(argument) for argument in node.args if isinstance(argument, ast.Name))):
            self._reach(callee, function)
        self.generic_visit(node)

    def _reach(self, callee: Any, node: ast.expr) -> None:
        callee = getattr(callee, "func", callee)
        if isinstance(callee, property):
            callee = callee.fget
        elif isinstance(callee, staticmethod | classmethod):
            callee = callee.__func__
        function = function_of(inspect.unwrap(callee) if isinstance(callee, types.FunctionType) else callee)
        if getattr(callee, "_torchdynamo_disable", False) or function is None:
            return
        owner = self.resolve(node.value) if isinstance(node, ast.Attribute) else None
        bound = getattr(callee, "__self__", None)
        self.reached.append((function, bound or (owner if isinstance(owner, nn.Module) else None)))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        value = self.resolve(node)
        if isinstance(value, property):
            self._reach(value, node)
        if isinstance(node.ctx, ast.Load):
            name = self.name_of(node)
            if name.startswith("os.environ"):
                self._note(self.found.calls, node, name, ast.unparse(node))
        else:
            self._write(node, node)
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if not isinstance(node.ctx, ast.Load):
            self._write(node.value, node)
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if not self._is_global(node.id):
            return
        if isinstance(node.ctx, ast.Load):
            self._note(self.found.global_reads, node, node.id)
            self.found.globals.setdefault(node.id, self.function.__globals__)
        else:
            self._write(node, node)

    def _is_global(self, name: str) -> bool:
        own = name in self.locals and name not in self.declared
        return not own and name not in self.imported and name in self.function.__globals__

    def _write(self, target: ast.expr, node: ast.AST) -> None:
        """A change of ``self.x`` or of a global. Changes of locals are nobody's business."""
        while isinstance(target, ast.Subscript):
            target = target.value
        if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
            self._note(self.found.writes, node, target.attr, ast.unparse(target))
        elif isinstance(target, ast.Name) and self._is_global(target.id):
            self._note(self.found.global_writes, node, target.id)
            self.found.globals[target.id] = self.function.__globals__

    def visit_Try(self, node: ast.Try) -> None:
        if node.handlers:
            span = ast.Pass(lineno=node.body[0].lineno, end_lineno=node.body[-1].end_lineno)
            self._note(self.found.caught, span, str(len(self.found.handlers)))
            self._note(self.found.handlers, node.handlers[0], "except")
        self.generic_visit(node)

    # What runs only outside of a graph.

    def visit_If(self, node: ast.If) -> None:
        test = self._compiling(node.test)
        if test is False:
            self._outside(node.body)
        elif test is True:
            self._outside(node.orelse)
        self.generic_visit(node)

    def _outside(self, body: list[ast.stmt]) -> None:
        if body:
            span = ast.Pass(lineno=body[0].lineno, end_lineno=body[-1].end_lineno)
            self._note(self.found.uncompiled, span, "uncompiled")

    def _compiling(self, test: ast.expr) -> bool | None:
        """True for ``is_compiling()``, False for ``not is_compiling()`` and what is joined to it by ``and``."""
        if isinstance(test, ast.Call):
            return True if self.name_of(test.func).rpartition(".")[2] in _CHECKS_FOR_COMPILING else None
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            return False if self._compiling(test.operand) is True else None
        if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
            return False if any(self._compiling(value) is False for value in test.values) else None
        return None

    def _note_early_return(self, root: Any) -> None:
        """``if is_compiling(): return …``: what comes after it is outside."""
        body = root.body if isinstance(root, ast.FunctionDef) else []
        for place, node in enumerate(body):
            if isinstance(node, ast.If) and self._compiling(node.test) and isinstance(node.body[-1], ast.Return):
                self._outside(body[place + 1 :])


def function_of(value: Any) -> Any:
    """The Python function inside bound methods and decorators, None where there is none."""
    value = getattr(value, "__func__", value)
    return value if isinstance(value, types.FunctionType) else None


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None
