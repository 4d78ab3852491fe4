"""Which classes of a file in diffusers' style can take the place of a UNet's attention, read from its text.

A class that is told apart here is neither imported nor made: that takes long, and some cannot be on this machine.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from ...memo import cached
from ..authored.attn_view import AttnView
from .pieces import statements_in
from .user_files import read_source

#: Bytes of diffusers' file: 240 kB in 0.38.
LARGEST = 2**20

#: What diffusers' Attention may have and the view has not, or has as None.
_PARTS = {name for name in vars(AttnView) if vars(AttnView)[name] is None}
_OFFERED = {name for name in vars(AttnView) if name not in _PARTS and not name.startswith("__")} | {
    "heads", "dim_head", "to_q", "to_k", "to_v", "to_out",
}  # fmt: skip


@cached
def judged(path: Path) -> dict[str, tuple[str, ...]]:
    """Every class in a file that is called as ``(attn, hidden_states, …)``, with each reason why it cannot take the
    place of a UNet's attention; none means that it can."""
    classes, packages = _called_with_attn(path)
    return {name: tuple(_reasons(node, entry, packages)) for name, node, entry in classes}


@cached
def fitting(path: Path) -> tuple[str, ...]:
    """Names of the classes for which ``judged`` gives no reason. The first reason is enough, which saves most of the
    time: ComfyUI waits for this when it starts."""
    classes, packages = _called_with_attn(path)
    return tuple(name for name, node, entry in classes if not any(_reasons(node, entry, packages)))


def _called_with_attn(path: Path) -> tuple[list[tuple[str, ast.ClassDef, ast.FunctionDef]], dict[str, str]]:
    """The classes of a file that are called as ``(attn, hidden_states, …)``, and the packages that its names are of."""
    tree = ast.Module(statements_in(read_source(path, LARGEST)), [])
    found = {node.name: (node, _entry(node)) for node in tree.body if isinstance(node, ast.ClassDef)}
    return [(name, node, entry) for name, (node, entry) in found.items() if entry is not None], dict(_imports(tree))


def _entry(node: ast.ClassDef) -> ast.FunctionDef | None:
    """``__call__`` or ``forward`` when it starts with (self, attn, hidden_states)."""
    for member in node.body:
        if not isinstance(member, ast.FunctionDef) or member.name not in ("__call__", "forward"):
            continue
        if [argument.arg for argument in member.args.args[1:3]] == ["attn", "hidden_states"]:
            return member
    return None


def _imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Names that a module takes from elsewhere, each with the top-level package; also those that it takes on a
    condition."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (alias.asname or alias.name).partition(".")[0], alias.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            for alias in node.names:
                yield alias.asname or alias.name, node.module.partition(".")[0]


def _reasons(node: ast.ClassDef, entry: ast.FunctionDef, packages: dict[str, str]) -> Iterator[str]:
    needed = [*_required(node), *(f"{name} in each call" for name in _required_in_call(entry))]
    if needed:
        yield f"it needs {', '.join(needed)}, which a name alone does not give"
    if any(isinstance(part, ast.Attribute) and part.attr in ("Linear", "Parameter") for part in ast.walk(node)):
        yield "it has trained weights of its own, which a name alone does not give"
    used = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    missing = sorted({packages[name] for name in used if name in packages and find_spec(packages[name]) is None})
    if missing:
        yield f"{', '.join(missing)} is not installed"
    absent = sorted(set(_parts_needed(entry.body)))
    if absent:
        yield f"it needs {', '.join(f'attn.{name}' for name in absent)}, which a UNet's attention in ComfyUI has not"
    if any(isinstance(part, ast.Return) and isinstance(part.value, ast.Tuple) for part in ast.walk(entry)):
        yield "it returns picture and text, as joint attention does"
    if not any(_attn(node) == "to_out" for node in ast.walk(entry)):
        yield "it leaves the output projection to its caller"
    if _splits_batch(entry):
        yield "it takes the batch for parts that only its own pipeline puts there"
    unread = [name for name in ("encoder_hidden_states", "attention_mask") if not _reads(entry, name)]
    if unread:
        yield f"it does not use {', '.join(unread)}"


def _required(node: ast.ClassDef) -> list[str]:
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__":
            return [
                argument.arg for argument in member.args.args[1 : len(member.args.args) - len(member.args.defaults)]
            ]
    return []


def _required_in_call(entry: ast.FunctionDef) -> list[str]:
    """Parameters without a default, other than those that every call brings."""
    names = [argument.arg for argument in entry.args.args[: len(entry.args.args) - len(entry.args.defaults)]]
    return [name for name in names[3:] if name not in ("encoder_hidden_states", "attention_mask")]


def _attn(node: ast.AST) -> str | None:
    """``attn.name`` gives "name"."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "attn":
        return node.attr
    return None


def _parts_needed(body: list[ast.stmt]) -> Iterator[str]:
    """Parts of ``attn`` that are used and not there, in code that is reached on a UNet: a branch that asks for such a
    part first is not."""
    for statement in body:
        if isinstance(statement, ast.If):
            asks = _asks_for_absent(statement.test)
            if asks is not True:
                yield from _parts_needed(statement.body)
            if asks is not False:
                yield from _parts_needed(statement.orelse)
        else:
            yield from _used_absent(statement)


def _asks_for_absent(test: ast.expr) -> bool | None:
    """True where the test fails because a part is not there (``attn.norm_q is not None``), False where it holds because
    of that (``attn.norm_q is None``), None where it asks something else."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return True if any(_asks_for_absent(value) is True for value in test.values) else None
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = _asks_for_absent(test.operand)
        return None if inner is None else not inner
    against = test.comparators[0] if isinstance(test, ast.Compare) else None
    if isinstance(test, ast.Compare) and isinstance(against, ast.Constant) and against.value is None:
        return isinstance(test.ops[0], ast.IsNot) if _absent(test.left) else None
    return True if _absent(test) else None


def _absent(expression: ast.expr) -> bool:
    """``attn.norm_q``, ``hasattr(attn, "norm_q")`` and ``getattr(attn, "norm_q", …)`` of a part that is not there."""
    if isinstance(expression, ast.Call) and isinstance(expression.func, ast.Name):
        arguments = expression.args
        if expression.func.id in ("hasattr", "getattr") and len(arguments) > 1:
            return isinstance(arguments[1], ast.Constant) and arguments[1].value not in _OFFERED
    name = _attn(expression)
    return name is not None and name not in _OFFERED


def _used_absent(statement: ast.stmt) -> Iterator[str]:
    tested = {id(node) for node in ast.walk(statement) if isinstance(node, ast.Compare | ast.BoolOp)}
    for node in ast.walk(statement):
        name = _attn(node)
        if name is not None and name not in _OFFERED and id(node) not in tested:
            yield name


def _splits_batch(entry: ast.FunctionDef) -> bool:
    """``hidden_states.chunk(2)``: perturbed-attention guidance doubles the batch, and its processors halve it."""
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "chunk"
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "hidden_states"
        for node in ast.walk(entry)
    )


def _reads(entry: ast.FunctionDef, name: str) -> bool:
    """Whether a parameter is there and its value is used."""
    return any(isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Load) for n in ast.walk(entry))
