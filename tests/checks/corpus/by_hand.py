"""Calls a class of the corpus as its author would, at attention modules in plain torch, without the pack's check."""

from __future__ import annotations

import inspect
import itertools
import sys
import types
from collections.abc import Iterator
from typing import Any

import torch
from corpus.pictures import Call, attention
from corpus.running import Source
from onediff_pack.processors.authored.attn_view import AttnView
from torch import Tensor, nn

#: Channels of the sites' inputs and of the prompt.
WIDTHS, PROMPT = (32, 64), 48


class PlainSite(nn.Module):
    """A UNet's attention module as the host has it; ``context`` is the width of what it reads."""

    def __init__(self, width: int, context: int | None):
        super().__init__()
        self.heads, self.context = 2, context
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k, self.to_v = (nn.Linear(context or width, width, bias=False) for _ in range(2))
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(0.0))

    def forward(
        self, x: Tensor, context: Tensor | None = None, value: None = None, mask: Tensor | None = None
    ) -> Tensor:
        return attention(Call(self, x, context, mask, 0.0))


def calls(masked: bool) -> Iterator[Call]:
    """Three model calls: two with a prompt and its opposite, one alone and of an odd size."""
    torch.manual_seed(0)
    sites = [PlainSite(width, context) for width in WIDTHS for context in (None, PROMPT)]
    for (batch, tokens, sigma), site in itertools.product(((2, 36, 1.0), (2, 36, 0.5), (1, 35, 0.2)), sites):
        x = torch.randn(batch, tokens, site.to_q.in_features)
        context = torch.randn(batch, 21, PROMPT) if site.context else None
        mask = torch.randn(x.shape[1], (x if context is None else context).shape[1]) if masked else None
        yield Call(site, x, context, mask, sigma)


def results(source: Source, given: list[Call]) -> list[Tensor]:
    """What the class computes: one instance for all sites, or one a site where it takes a site or its sizes."""
    module = types.ModuleType(f"by_hand_{source.state}_{source.entry.file}")
    sys.modules[module.__name__] = module
    exec(compile(source.text, f"{source.entry.file}.py", "exec"), module.__dict__)
    cls = getattr(module, source.entry.cls)
    takes = list(inspect.signature(cls.__init__).parameters)[1:2]
    instances: dict[Any, Any] = {}
    out = []
    for call in given:
        key: Any = call.site if takes in (["hidden_size"], ["attention"], ["attn"]) else None
        if key not in instances:
            sizes = {"hidden_size": call.site.to_q.in_features, "cross_attention_dim": call.site.context}
            arguments = sizes if takes == ["hidden_size"] else {takes[0]: call.site} if key else {}
            instances[key] = cls(**arguments)
        with torch.no_grad():
            out.append(_called(instances[key], source, call))
    return out


def _called(processor: Any, source: Source, call: Call) -> Tensor:
    if source.entry.file == "standins":
        return processor(call.x, context=call.context, mask=call.mask)
    options = {}
    if "transformer_options" in inspect.signature(getattr(processor, "forward", processor)).parameters:
        options["transformer_options"] = {"sigmas": torch.full((len(call.x),), call.sigma)}
    if source.entry.file == "kernels":
        return call.site.to_out(processor(call.q, call.k, call.v, call.site.heads, call.mask, **options))
    return processor(AttnView(call.site, call.x.dtype), call.x, call.context, call.mask, **options)
