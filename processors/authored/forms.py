"""In which form a class is written, and how it is called: as it declares, as its names say, else as a call shows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn

from ..random_numbers import numbers_kept
from ..sites.find import Site
from .attn_view import AttnView
from .call_plan import CONTRACTS, Form, Parameters, Plan, plan
from .parameters import own_parameters, reached_parameters
from .site_values import Sizes, ids_in, sizes_of
from .state import Kept, places_of

#: Runs a call of the processor.
Apart = Callable[[Callable[[], "Way | None"]], "Way | None"]

_NAMED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_KNOWN = frozenset(name for contract in CONTRACTS.values() for name in contract.known)

#: Names that say what they are. In places where no form has them, a call could mix them up in silence.
_REQUIRED = frozenset(n for c in CONTRACTS.values() for argument in c.required for n in c.names(argument))


@dataclass(frozen=True)
class Way:
    """How a processor is called. ``told_by`` is how that was found out; with "a tie" it can be called in both forms."""

    form: Form
    plan: Plan
    told_by: Literal["declared", "names", "a call", "a tie"]


def way_of(processor: nn.Module, site: Site | None = None, apart: Apart = lambda work: work()) -> Way | None:
    """How a processor is called, None when nothing tells: the form that its class declares, else the one that its
    names say, else those of the next ``forward`` along its bases, else the one in which a small call succeeds.

    Args:
        site: for the sizes of that call; None takes small ones.
        apart: runs it, where somebody else than the caller looks after the processor's code.
    """
    own, reached = own_parameters(processor), reached_parameters(processor)
    declared = getattr(processor, "level", None)
    if isinstance(declared, str) and declared in CONTRACTS:
        form = cast(Form, declared)
        return Way(form, plan(reached, form), "declared")
    named = by_names(own) or by_names(reached)
    if named is not None:
        return Way(named, plan(reached, named), "names")
    if any(p.name in _REQUIRED for p in [p for p in reached if p.kind in _NAMED][:4]):
        return None
    return apart(lambda: _tried(processor, reached, site))


def by_names(parameters: Parameters) -> Form | None:
    """The form that parameters look like."""
    names = [p.name for p in parameters if p.kind in _NAMED]
    kernel, hidden = CONTRACTS["kernel"], CONTRACTS["module"].names("hidden_states")
    first = names[0] if names else None
    if len(names) > 2 and all(
        own in kernel.names(wanted) for own, wanted in zip(names, kernel.required[:3], strict=False)
    ):
        return "kernel"
    if first == "attn" or (len(names) > 1 and names[1] in hidden and first not in _KNOWN):
        return "module"
    if first in hidden:
        more = {name for argument in CONTRACTS["stand-in"].optional for name in CONTRACTS["stand-in"].names(argument)}
        if not more.isdisjoint(names[1:]) or any(p.kind not in _NAMED for p in parameters):
            return "stand-in"
    return None


class _Projections(nn.Module):
    """What a site's module has, for a call that only shows whether one is possible."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        inner = sizes.heads * sizes.head_dim
        self.heads, self.dim_head = sizes.heads, sizes.head_dim
        self.to_q, self.to_k, self.to_v = (_zeros(sizes.width, inner) for _ in range(3))
        self.to_out = nn.Sequential(_zeros(inner, sizes.width), nn.Dropout(0.0))


def _zeros(inputs: int, outputs: int) -> nn.Linear:
    linear = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu").requires_grad_(False)
    for parameter in linear.parameters():
        parameter.zero_()
    return linear


def _tried(processor: nn.Module, parameters: Parameters, site: Site | None) -> Way | None:
    """On a few tokens of zeros. They are real ones: what looks at values, or makes tensors of its own, answers too."""
    sizes = sizes_of(site)
    inner = sizes.heads * sizes.head_dim
    possible: list[Form] = []
    state = Kept(places_of(processor, ids_in(site)))
    with numbers_kept(torch.device("cpu")), torch.inference_mode():
        flat, states = torch.zeros(2, 6, inner), torch.zeros(2, 6, sizes.width)
        given: Mapping[Form, Mapping[str, Any]] = {
            "module": {"attn": AttnView(_Projections(sizes), states.dtype), "hidden_states": states},
            "kernel": {"q": flat, "k": flat.clone(), "v": flat.clone(), "heads": sizes.heads},
        }
        for form, arguments in given.items():
            planned = plan(parameters, form)
            expected = states.shape if form == "module" else flat.shape
            if not planned.unfilled and _succeeds(processor, planned, arguments, expected):
                possible.append(form)
            state.put_back()
    if not possible:
        return None
    return Way(possible[0], plan(parameters, possible[0]), "a call" if len(possible) == 1 else "a tie")


def _succeeds(processor: nn.Module, planned: Plan, given: Mapping[str, Any], shape: torch.Size) -> bool:
    try:
        result = planned.call(processor, given)
    except Exception:  # that is the answer; what else a class raises goes on to whoever looks after its code
        return False
    return isinstance(result, torch.Tensor) and result.shape == shape
