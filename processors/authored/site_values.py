"""What is known of a site, under the names by which processors ask for it in ``__init__``."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..sites.find import Site

_GIVEN = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True)
class Sizes:
    """Of a site: heads, channels of a head, of the hidden states and of what is attended to."""

    heads: int = 2
    head_dim: int = 8
    width: int = 16
    context_width: int = 16


def sizes_of(site: Site | None) -> Sizes:
    """The sizes of a site with projections; small ones for any other."""
    if site is None or not site.has_projections:
        return Sizes()
    module: Any = site.module
    inner = module.to_q.out_features
    return Sizes(module.heads, inner // module.heads, module.to_q.in_features, module.to_k.in_features)


def ids_in(site: Site | None) -> frozenset[int]:
    """Ids of the modules and tensors of a site, which a processor may hold and which are not its own."""
    module = None if site is None else site.module
    held = () if module is None else (*module.modules(), *module.parameters(), *module.buffers())
    return frozenset(map(id, held))


def _known(site: Site, device: torch.device | None, dtype: torch.dtype | None) -> dict[str, Any]:
    """Every value by every name. ``hidden_size`` and ``cross_attention_dim`` are diffusers': the latter is None where
    the picture attends to itself."""
    sizes = sizes_of(site)
    known: dict[str, Any] = {"device": device, "dtype": dtype}
    known |= dict.fromkeys(("name", "layer_name", "path"), site.path)
    place = {"input_blocks": "down", "middle_block": "mid", "output_blocks": "up"}.get(site.path.partition(".")[0])
    if place is not None:
        known["place_in_unet"] = place
    if site.has_projections:
        known |= dict.fromkeys(("site", "attn", "attention", "module", "original", "orig", "attn_module"), site.module)
        known |= dict.fromkeys(("heads", "num_heads", "n_heads", "num_attention_heads"), sizes.heads)
        known |= dict.fromkeys(("head_dim", "dim_head", "attention_head_dim", "d_head"), sizes.head_dim)
        known |= dict.fromkeys(("hidden_size", "query_dim", "hidden_dim", "dim", "embed_dim"), sizes.width)
        known["inner_dim"] = sizes.heads * sizes.head_dim
        context = sizes.context_width if site.kind == "cross" else None
        known |= dict.fromkeys(("cross_attention_dim", "context_dim"), context)
    return known


#: Names of the values that are known of a site with projections, as a finding lists them.
KNOWN = ("hidden_size", "cross_attention_dim", "num_heads", "head_dim", "attn")


def parameters_of_init(cls: type) -> list[inspect.Parameter]:
    """The parameters of ``__init__`` that somebody has to, or may, name."""
    init: Any = cls.__init__  # type: ignore[misc]
    if init in (object.__init__, nn.Module.__init__):
        return []
    return [p for p in list(inspect.signature(init).parameters.values())[1:] if p.kind in _GIVEN]


@dataclass(frozen=True)
class Values:
    """Arguments of ``__init__``: ``given`` by the site, and those that are ``missing``."""

    given: dict[str, Any]
    missing: tuple[str, ...]


#: Of these a class may do without, so a default of None stands for "was not given".
_ASKED_BY_DEFAULT = frozenset({"hidden_size", "cross_attention_dim", "query_dim", "context_dim", "num_heads", "heads"})


def asks(cls: type) -> list[str]:
    """Parameters of ``__init__`` that need a value, or take one of the site's sizes and have None in its place."""
    return [
        p.name
        for p in parameters_of_init(cls)
        if p.default is p.empty or (p.default is None and p.name in _ASKED_BY_DEFAULT)
    ]


def values_at(cls: type, site: Site | None, device: torch.device | None, dtype: torch.dtype | None) -> Values:
    """What ``__init__`` of a class is given at a site, None for no site."""
    known = _known(site, device, dtype) if site is not None else {}
    parameters = {p.name: p for p in parameters_of_init(cls)}
    asked = asks(cls)
    missing = tuple(name for name in asked if name not in known and parameters[name].default is inspect.Parameter.empty)
    return Values({name: known[name] for name in asked if name in known}, missing)
