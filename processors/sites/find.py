"""The places in a loaded model where attention is computed.

They are found in the model's code: a module is a site when a method of its class, or a function that such a method
calls, calls one of ComfyUI's attention functions. So a model that ComfyUI adds later is found without a list of names.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn

from ...memo import cached

Kind = Literal["self", "cross"]

#: Names of ComfyUI's attention functions (comfy.ldm.modules.attention).
ATTENTION_FUNCTIONS = frozenset(
    {
        "optimized_attention",
        "optimized_attention_masked",
        "optimized_attention_for_device",
        "attention_pytorch",
        "attention_basic",
        "attention_sub_quad",
        "attention_split",
    }
)

#: How many calls deep a function is followed. Flux: forward → attention → optimized_attention is 2.
MAX_DEPTH = 4


@dataclass(frozen=True)
class Site:
    """One attention site.

    ``path`` is relative to the diffusion model (``input_blocks.1.1.transformer_blocks.0.attn2``). ``has_projections``
    tells a module site (to_q, to_k, to_v, to_out and nothing else: a module processor fits) from a kernel site.
    """

    path: str
    module: nn.Module
    kind: Kind
    has_projections: bool

    @property
    def head_dim(self) -> int | None:
        """Channels of a head where the module tells, else None."""
        return getattr(self.module, "dim_head", None) or getattr(self.module, "head_dim", None)


def _functions(code: types.CodeType, namespace: dict) -> Iterator[types.FunctionType]:
    """Python functions that ``code`` names in its module's namespace."""
    for name in code.co_names:
        value = namespace.get(name)
        if isinstance(value, types.FunctionType):
            yield value


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code and every code nested in it (lambdas, comprehensions, inner functions)."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


@cached
def _reaches_attention(function: types.FunctionType, cls: type[nn.Module] | None, depth: int) -> bool:
    """Whether a function calls attention: itself, through functions of its module, or through methods of ``cls``."""
    for code in _codes(function.__code__):
        if not ATTENTION_FUNCTIONS.isdisjoint(code.co_names):
            return True
        if not depth:
            continue
        if any(_reaches_attention(f, None, depth - 1) for f in _functions(code, function.__globals__)):
            return True
        methods = (getattr(cls, name, None) for name in code.co_names if name != function.__name__)
        if any(_reaches_attention(m, cls, depth - 1) for m in methods if isinstance(m, types.FunctionType)):
            return True
    return False


def computes_attention(cls: type[nn.Module]) -> bool:
    """Whether ``forward`` of this class (not of a submodule) calls one of ComfyUI's attention functions. Asked of the
    one that it has now: nodes set another one on a class."""
    return isinstance(cls.forward, types.FunctionType) and _reaches_attention(cls.forward, cls, MAX_DEPTH)


def _kind(path: str, module: nn.Module) -> Kind:
    """Cross-attention is told by the widths it reads, else by its name (attn2, cross_attn)."""
    to_q, to_k = getattr(module, "to_q", None), getattr(module, "to_k", None)
    if getattr(to_q, "in_features", None) != getattr(to_k, "in_features", None):
        return "cross"
    name = path.rpartition(".")[2].lower()
    return "cross" if "cross" in name or name.endswith("attn2") else "self"


def _has_projections(module: nn.Module) -> bool:
    """Whether attention of ``module`` is to_q, to_k, to_v, attention, to_out and nothing else (norms, rotations)."""
    names = ("to_q", "to_k", "to_v", "to_out")
    parts = {name for name, child in module.named_children() if any(True for _ in child.parameters())}
    arguments = list(inspect.signature(type(module).forward).parameters)
    return parts == set(names) and hasattr(module, "heads") and arguments[1:5] == ["x", "context", "value", "mask"]


def find_sites(diffusion_model: nn.Module) -> list[Site]:
    """All sites of a diffusion model, in the model's order. What lies inside a site is not one of its own."""
    sites: list[Site] = []
    for path, module in diffusion_model.named_modules():
        inside = any(path.startswith(f"{site.path}.") for site in sites)
        if path and not inside and computes_attention(type(module)):
            sites.append(Site(path, module, _kind(path, module), _has_projections(module)))
    return sites
