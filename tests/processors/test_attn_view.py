"""The view of ComfyUI's attention that diffusers' processors are given."""

from __future__ import annotations

import pytest
import torch
from onediff_pack.processors.authored.attn_view import AttnView
from torch import nn

CrossAttention = pytest.importorskip(
    "comfy.ldm.modules.attention",
    reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it",
).CrossAttention

BATCH, TOKENS, KEYS, HEADS = 2, 9, 7, 4

MASKS = {
    "none": None,
    "2-d bool": torch.ones(TOKENS, KEYS).tril(2).bool(),
    "3-d additive": torch.linspace(-3, 3, BATCH * TOKENS * KEYS).reshape(BATCH, TOKENS, KEYS),
    "3-d bool": torch.ones(BATCH, TOKENS, KEYS).tril(3).bool(),
    "4-d, one for all heads": torch.linspace(-3, 3, BATCH * TOKENS * KEYS).reshape(BATCH, 1, TOKENS, KEYS),
    "4-d, one a head": torch.linspace(-3, 3, BATCH * HEADS * TOKENS * KEYS).reshape(BATCH, HEADS, TOKENS, KEYS),
}


class Diffusers(nn.Module):
    """Attention in diffusers' words, as a custom processor would write it."""

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mask = attn.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0])
        if attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)
        q, k, v = (
            attn.head_to_batch_dim(x) for x in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        out = attn.batch_to_head_dim(attn.get_attention_scores(q, k, mask) @ v)
        return attn.to_out[1](attn.to_out[0](out)) / attn.rescale_output_factor


class Mounted(nn.Module):
    """A host module with a processor in its place."""

    def __init__(self, host: nn.Module, processor: nn.Module):
        super().__init__()
        self.host = host
        self.processor = processor

    def forward(self, x, context=None, mask=None):
        return self.processor(AttnView(self.host, x.dtype), x, context, mask)


@pytest.fixture
def attention(host) -> nn.Module:
    torch.manual_seed(0)
    module = CrossAttention(32, 48, heads=HEADS, dim_head=8, operations=nn)
    return module.eval().requires_grad_(False)


@pytest.mark.parametrize("mask", MASKS)
def test_attention_in_diffusers_words_equals_the_hosts(attention, mask):
    x, context = torch.randn(BATCH, TOKENS, 32), torch.randn(BATCH, KEYS, 48)
    expected = attention(x, context, mask=MASKS[mask])
    torch.testing.assert_close(Mounted(attention, Diffusers())(x, context, MASKS[mask]), expected)


def test_it_fits_into_one_graph(attention):
    mounted = Mounted(attention, Diffusers())
    compiled = torch.compile(mounted, backend="eager", fullgraph=True)
    x, context = torch.randn(BATCH, TOKENS, 32), torch.randn(BATCH, KEYS, 48)
    for mask in (None, MASKS["2-d bool"], MASKS["4-d, one a head"]):
        torch.testing.assert_close(compiled(x, context, mask), attention(x, context, mask=mask))


def test_weights_are_the_hosts_own_and_the_rest_is_reached(attention):
    view = AttnView(attention, torch.float32)
    assert view.to_q is attention.to_q
    assert view.to_out[0] is attention.to_out[0]
    assert (view.heads, view.inner_dim, view.query_dim, view.cross_attention_dim) == (HEADS, 32, 32, 48)
    assert view.is_cross_attention
    assert view.dim_head == 8, "what the view does not name comes from the host"
    with pytest.raises(AttributeError, match="no attribute 'to_qkv'"):
        _ = view.to_qkv


def test_a_host_that_upcasts_is_upcast(attention):
    attention.half()
    attention.attn_precision = torch.float32
    view = AttnView(attention, torch.float16)
    q = torch.full((1, 2, 8), 120.0, dtype=torch.float16)  # 8 * 120 * 120 is more than float16 holds
    scores = view.get_attention_scores(q, q)
    assert scores.dtype == torch.float16
    torch.testing.assert_close(scores, torch.full((1, 2, 2), 0.5, dtype=torch.float16))
