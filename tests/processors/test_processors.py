"""What the processors compute, against the formula and against the host."""

from __future__ import annotations

import pytest
import torch
from onediff_pack.processors import (
    KernelProcessor,
    Limits,
    ModuleProcessor,
    UnknownProcessor,
    get_processor,
    processor_names,
    register_processor,
    remedy,
)
from onediff_pack.processors.built_in.reference import plain_attention


def masks(batch: int, heads: int, queries: int, keys: int) -> dict[str, torch.Tensor | None]:
    """A mask of every accepted form. Every query may attend to something."""
    keep = torch.rand(batch, heads, queries, keys) > 0.3
    keep[..., 0] = True
    return {
        "none": None,
        "bool 2-d": keep[0, 0],
        "bool 3-d": keep[:, 0],
        "bool 4-d": keep,
        "additive 2-d": torch.randn(queries, keys),
        "additive 3-d": torch.randn(batch, queries, keys),
        "additive 4-d": torch.randn(batch, 1, queries, keys),
    }


@pytest.mark.parametrize("form", list(masks(1, 1, 1, 1)))
def test_sdpa_equals_the_formula(form):
    torch.manual_seed(0)
    batch, heads, queries, keys, dim = 2, 3, 5, 7, 8
    q, k, v = (torch.randn(batch, heads, n, dim) for n in (queries, keys, keys))
    mask = masks(batch, heads, queries, keys)[form]
    expected = plain_attention(q, k, v, mask if mask is None or mask.ndim == 4 else mask.view(-1, 1, queries, keys))
    sdpa = get_processor("sdpa")
    flat = [x.transpose(1, 2).reshape(batch, -1, heads * dim) for x in (q, k, v)]

    torch.testing.assert_close(sdpa(q, k, v, heads, mask, skip_reshape=True, skip_output_reshape=True), expected)
    merged = expected.transpose(1, 2).reshape(batch, queries, heads * dim)
    torch.testing.assert_close(sdpa(*flat, heads, mask), merged)


def test_sdpa_takes_fewer_key_heads_and_a_scale():
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 4, 5, 8), torch.randn(1, 2, 5, 8), torch.randn(1, 2, 5, 8)
    out = get_processor("sdpa")(q, k, v, 4, skip_reshape=True, skip_output_reshape=True, scale=0.5, enable_gqa=True)
    k, v = (x.repeat_interleave(2, dim=1) for x in (k, v))
    torch.testing.assert_close(out, (q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v)


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize("context_width", [None, 24])
def test_reference_equals_the_hosts_cross_attention(context_width):
    import comfy.ops
    from comfy.ldm.modules.attention import CrossAttention

    torch.manual_seed(0)
    attn = CrossAttention(16, context_width, heads=2, dim_head=8, operations=comfy.ops.disable_weight_init)
    for parameter in attn.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x = torch.randn(2, 6, 16)
    context = None if context_width is None else torch.randn(2, 9, context_width)
    value = None if context_width is None else torch.randn(2, 9, context_width)
    mask = torch.rand(6, 6 if context is None else 9) > 0.3
    mask[:, 0] = True
    reference = get_processor("reference")

    torch.testing.assert_close(reference(attn, x, context), attn(x, context=context))
    torch.testing.assert_close(
        reference(attn, x, context, mask, value), attn(x, context=context, mask=mask, value=value)
    )


def test_names_and_errors():
    assert processor_names()[0] == "sdpa"
    assert isinstance(get_processor("sdpa"), KernelProcessor)
    assert isinstance(get_processor("reference"), ModuleProcessor)
    with pytest.raises(UnknownProcessor, match=r"'spda'.*Did you mean sdpa"):
        get_processor("spda")
    with pytest.raises(ValueError, match="registered already"):
        register_processor("sdpa")(KernelProcessor)


def test_limits_name_every_reason():
    limits = Limits(devices=frozenset({"cuda"}), dtypes=frozenset({torch.float16}), max_head_dim=128)
    reasons = limits.not_supported_reasons(torch.device("cpu"), torch.float32, 160)
    assert [(reason.why, reason.fix) for reason in reasons] == [
        ("device cpu is not among cuda", "run the model on cuda"),
        ("dtype float32 is not among float16", "load the model in float16"),
        ("head size 160 > 128, the most that it supports", None),
    ]
    assert remedy(reasons) == "Use sdpa at these places."
    assert remedy(reasons[:2]) == "Run the model on cuda and load the model in float16, or use sdpa."
    assert limits.not_supported_reasons(torch.device("cuda"), torch.float16, 64) == []
