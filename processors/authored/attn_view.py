"""What processors written for diffusers expect of ``attn``, on ComfyUI's attention module.

diffusers hands its processors an ``Attention`` module; ComfyUI's ``CrossAttention`` holds the same projections, but
none of the norms, flags and helpers around them. The view adds those with the values that they have in a UNet, where
they do nothing. Weights stay the host module's own. A view is made anew in each call, inside the compiled graph, where
it costs nothing.
"""

from __future__ import annotations

from typing import Any

import torch

from ..built_in.shapes import broadcast_mask


class AttnView:
    """An attention module of the host with the names of diffusers' ``Attention``.

    ``dtype`` is that of the hidden states: the one that masks are given in. What is not named here comes from the host
    module.
    """

    # Parts that diffusers' Attention may have and ComfyUI's module has not.
    spatial_norm = group_norm = norm_cross = norm_q = norm_k = None
    add_q_proj = add_k_proj = add_v_proj = to_add_out = norm_added_q = norm_added_k = None
    added_kv_proj_dim = context_pre_only = None

    # Behaviour that a UNet's attention does not ask for.
    residual_connection = only_cross_attention = pre_only = is_causal = fused_projections = False
    rescale_output_factor = 1.0
    dropout = 0.0
    scale_qk = added_proj_bias = True

    def __init__(self, host: Any, dtype: torch.dtype):
        self.host = host
        self.dtype = dtype
        self.heads: int = host.heads
        self.to_q: Any = host.to_q
        self.to_k: Any = host.to_k
        self.to_v: Any = host.to_v
        self.to_out: Any = host.to_out  # a Sequential: to_out[0] and to_out[1] are projection and dropout

    @property
    def inner_dim(self) -> int:
        """Channels of the queries, all heads together."""
        return self.to_q.out_features

    @property
    def inner_kv_dim(self) -> int:
        """Channels of the keys, all heads together."""
        return self.to_k.out_features

    @property
    def query_dim(self) -> int:
        """Channels of the hidden states."""
        return self.to_q.in_features

    @property
    def cross_attention_dim(self) -> int:
        """Channels of what is attended to."""
        return self.to_k.in_features

    @property
    def out_dim(self) -> int:
        """Channels of the result."""
        return self.query_dim

    @property
    def out_context_dim(self) -> int:
        """As ``out_dim``: there is no second result."""
        return self.query_dim

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.inner_dim // self.heads

    @property
    def num_heads(self) -> int:
        """As ``heads``, in the words of diffusers' newer attention classes."""
        return self.heads

    @property
    def sliceable_head_dim(self) -> int:
        """How many heads there are to compute one after the other."""
        return self.heads

    @property
    def use_bias(self) -> bool:
        """Whether q, k and v are projected with a bias."""
        return self.to_q.bias is not None

    @property
    def is_cross_attention(self) -> bool:
        """Whether it attends to something of another width."""
        return self.query_dim != self.cross_attention_dim

    @property
    def scale(self) -> float:
        """1/√(head size)."""
        return self.head_dim**-0.5

    @property
    def upcast_attention(self) -> bool:
        """ComfyUI's ``attn_precision`` float32."""
        return getattr(self.host, "attn_precision", None) is torch.float32

    @property
    def upcast_softmax(self) -> bool:
        """As ``upcast_attention``."""
        return self.upcast_attention

    def __getattr__(self, name: str) -> Any:
        return getattr(self.host, name)

    def head_to_batch_dim(self, tensor: torch.Tensor, out_dim: int = 3) -> torch.Tensor:
        """(batch, tokens, heads * head_dim) → (batch * heads, tokens, head_dim), or (batch, heads, tokens, head_dim)
        with ``out_dim`` 4."""
        heads = tensor.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (batch, heads, tokens, head_dim)
        return heads.flatten(0, 1) if out_dim == 3 else heads

    def batch_to_head_dim(self, tensor: torch.Tensor) -> torch.Tensor:
        """(batch * heads, tokens, head_dim) → (batch, tokens, heads * head_dim)."""
        return tensor.unflatten(0, (-1, self.heads)).transpose(1, 2).flatten(2)

    def prepare_attention_mask(
        self,
        attention_mask: torch.Tensor | None,
        target_length: int | None = None,
        batch_size: int = 1,
        out_dim: int = 3,
    ) -> torch.Tensor | None:
        """ComfyUI's mask in the form that diffusers' processors compute with.

        Args:
            attention_mask: bool (True takes part) or additive, (queries, keys), (batch, queries, keys) or
                (batch, heads or 1, queries, keys).
            target_length: taken as diffusers takes it, and not needed: ComfyUI's masks are as long as the keys.
            batch_size: of the keys.

        Returns:
            additive, (batch * heads, queries, keys), or (batch, heads, queries, keys) with ``out_dim`` 4.
        """
        mask = broadcast_mask(attention_mask)
        if mask is None:
            return None
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=self.dtype).masked_fill(~mask, float("-inf"))
        mask = mask.to(self.dtype).expand(batch_size, self.heads, -1, -1)
        return mask.flatten(0, 1) if out_dim == 3 else mask

    def get_attention_scores(
        self, query: torch.Tensor, key: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """softmax(QKᵀ · scale + mask) of (batch * heads, tokens, head_dim) tensors, in the dtype of the query."""
        dtype = query.dtype
        if self.upcast_attention:
            query, key = query.float(), key.float()
        scores = (query * self.scale) @ key.transpose(-2, -1)  # (batch * heads, queries, keys)
        if attention_mask is not None:
            scores = scores + attention_mask.to(scores.dtype)
        return scores.softmax(dim=-1).to(dtype)

    def norm_encoder_hidden_states(self, encoder_hidden_states: torch.Tensor) -> torch.Tensor:
        """The context as it is: ComfyUI's attention does not norm it."""
        return encoder_hidden_states
