"""Custom Diffusion: a concept's own projections in cross-attention (Kumari et al. 2023), as diffusers saves them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from ..built_in.sdpa import SDPAProcessor
from ..contract import ModuleProcessor

_SDPA = SDPAProcessor().eval()


class CustomDiffusion(ModuleProcessor):
    """Has a site's keys and values, and its query and output where the file has them."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]):
        super().__init__()
        held = {name.split("_custom")[0]: tensor for name, tensor in tensors.items() if name.endswith(".weight")}
        self.weights = nn.ParameterDict({name: nn.Parameter(one, requires_grad=False) for name, one in held.items()})
        bias = tensors.get("to_out_custom_diffusion.0.bias")
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        value: torch.Tensor | None = None,
    ) -> torch.Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q = self._projected("to_q", attn.to_q, hidden_states)
        k = self._projected("to_k", attn.to_k, context)
        v = self._projected("to_v", attn.to_v, context if value is None else value)
        result = _SDPA(q, k, v, attn.heads, attention_mask)
        return self._projected("to_out", attn.to_out, result, self.bias)

    def _projected(self, name: str, own: nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        if name not in self.weights:
            return own(x)
        return linear(x, self.weights[name].to(x.dtype), None if bias is None else bias.to(x.dtype))


def fits(tensors: Mapping[str, torch.Tensor], attn: Any) -> bool:
    """Whether these weights are of a site's sizes."""
    wanted = {
        "to_q_custom_diffusion.weight": attn.to_q.weight.shape,
        "to_k_custom_diffusion.weight": attn.to_k.weight.shape,
        "to_v_custom_diffusion.weight": attn.to_v.weight.shape,
        "to_out_custom_diffusion.0.weight": attn.to_out[0].weight.shape,
        "to_out_custom_diffusion.0.bias": attn.to_out[0].weight.shape[:1],
    }
    return all(tensor.shape == wanted[name] for name, tensor in tensors.items())
