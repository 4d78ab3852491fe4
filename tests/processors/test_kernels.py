"""Attention kernels: what each computes, what it is handed, and what is said where it cannot be used.

Those that need a GPU or a package are called with a stand-in in the package's place. It counts its calls, insists on
the package's layout and computes the formula: it shows what is handed over, not what the package does with it.
"""

from __future__ import annotations

import dataclasses
import importlib.machinery
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import torch
from onediff_pack.processors import get_processor, processor_names
from onediff_pack.processors.built_in.reference import plain_attention
from onediff_pack.processors.contract import Limits
from onediff_pack.processors.kernels import kernel as kernels
from onediff_pack.processors.kernels.kernel import Kernel
from onediff_pack.processors.kernels.package import Package
from onediff_pack.processors.kernels.proofs import kernel_of
from onediff_pack.processors.overriding import kernel_override
from onediff_pack.status.installing import with_python

#: Kernels that run on every device, and compute exactly.
EVERYWHERE = ["sdpa", "sdpa-math", "sliced"]

PACKAGED = {"flash": "flash_attn", "kitchen-int8": "comfy_kitchen", "sage": "sageattention", "sage3": "sageattn3"} | {
    "xformers": "xformers"
}

BATCH, HEADS, QUERIES, KEYS, DIM = 2, 4, 6, 9, 64


def masks(batch: int = BATCH, heads: int = HEADS, queries: int = QUERIES, keys: int = KEYS) -> dict[str, Any]:
    """A mask of every form that ComfyUI's models bring. Every query may attend to something."""
    keep = torch.rand(batch, heads, queries, keys) > 0.3
    keep[..., 0] = True
    return {
        "none": None,
        "bool 2-d": keep[0, 0],
        "bool 3-d": keep[:, 0],
        "bool 4-d": keep,
        "one row for all queries": keep[:, :1, :1],
        "additive 2-d": torch.randn(queries, keys),
        "additive 3-d": torch.randn(batch, queries, keys),
        "additive 4-d": torch.randn(batch, 1, queries, keys),
    }


def tensors(key_heads: int = HEADS) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(BATCH, h, n, DIM) for h, n in ((HEADS, QUERIES), (key_heads, KEYS), (key_heads, KEYS))]


def flat(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("form", list(masks()))
@pytest.mark.parametrize("name", EVERYWHERE)
def test_exact_kernels_equal_the_formula_in_both_layouts(name: str, form: str) -> None:
    torch.manual_seed(1)
    mask, (q, k, v) = masks()[form], tensors()
    four = mask if mask is None or mask.ndim == 4 else mask.view(-1, 1, QUERIES, KEYS)
    expected = plain_attention(q, k, v, four)
    kernel = get_processor(name)
    torch.testing.assert_close(kernel(q, k, v, HEADS, mask, skip_reshape=True, skip_output_reshape=True), expected)
    torch.testing.assert_close(kernel(flat(q), flat(k), flat(v), HEADS, mask), flat(expected))


@pytest.mark.parametrize("name", EVERYWHERE)
def test_exact_kernels_take_fewer_key_heads_and_a_scale(name: str) -> None:
    q, k, v = tensors(key_heads=2)
    out = get_processor(name)(q, k, v, HEADS, None, True, True, 0.3, True)
    k, v = (x.repeat_interleave(2, dim=1) for x in (k, v))
    torch.testing.assert_close(out, (q @ k.transpose(-2, -1) * 0.3).softmax(-1) @ v)


def test_sliced_never_holds_more_scores_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    from onediff_pack.processors.built_in import sliced

    largest = []
    softmax = torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda x, *args: largest.append(x.nbytes) or softmax(x, *args))
    monkeypatch.setattr(sliced, "MOST_BYTES", 2 * BATCH * HEADS * KEYS * 4)
    q, k, v = tensors()
    out = get_processor("sliced")(q, k, v, HEADS, masks()["additive 4-d"], True, True)
    assert max(largest) <= sliced.MOST_BYTES
    assert len(largest) == QUERIES / 2
    assert out.shape == q.shape


class StandIn:
    """A package whose attention counts its calls. ``tokens`` is the dimension of tokens in the package's layout."""

    def __init__(self, tokens: int) -> None:
        self.tokens, self.calls = tokens, 0

    def attend(self, q: Any, k: Any, v: Any, mask: Any = None, scale: float | None = None) -> torch.Tensor:
        self.calls += 1
        assert (q.shape[self.tokens], k.shape[self.tokens]) == (QUERIES, KEYS)
        assert q.shape[3 - self.tokens] == HEADS
        if self.tokens == 1:
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        q = q * ((scale or q.shape[-1] ** -0.5) * q.shape[-1] ** 0.5)
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        out = plain_attention(q, k, v, mask)
        return out.transpose(1, 2) if self.tokens == 1 else out


def flash(stand_in: StandIn) -> dict[str, Any]:
    def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False):
        return stand_in.attend(q, k, v, None, softmax_scale)

    return {"flash_attn_func": flash_attn_func}


def kitchen(stand_in: StandIn) -> dict[str, Any]:
    def int8_attention(q, k, v, *, scale=None, attn_mask=None):
        return stand_in.attend(q, k, v, attn_mask, scale)

    return {"int8_attention": int8_attention}


def sage(stand_in: StandIn) -> dict[str, Any]:
    def sageattn(q, k, v, tensor_layout="HND", is_causal=False, sm_scale=None, smooth_k=True):
        assert tensor_layout == "HND" and k.shape[1] == q.shape[1]
        out = stand_in.attend(q, k, v, None, sm_scale)
        k -= k.mean(dim=2, keepdim=True)  # as version 1 does
        return out

    return {"sageattn": sageattn}


def sage3(stand_in: StandIn) -> dict[str, Any]:
    def sageattn3_blackwell(q, k, v, attn_mask=None, is_causal=False, per_block_mean=True):
        assert attn_mask is None and q.is_contiguous() and v.is_contiguous() and k.shape[1] == q.shape[1]
        out = stand_in.attend(q, k, v)
        k -= k.mean(dim=2, keepdim=True)
        return out

    return {"sageattn3_blackwell": sageattn3_blackwell}


def xformers(stand_in: StandIn) -> dict[str, Any]:
    def memory_efficient_attention(q, k, v, attn_bias=None, p=0.0, scale=None):
        assert k.shape[2] == q.shape[2]
        if attn_bias is not None:
            assert attn_bias.dtype == q.dtype and attn_bias.shape == (BATCH, HEADS, QUERIES, KEYS)
            assert attn_bias.stride(2) % 8 == 0
        return stand_in.attend(q, k, v, attn_bias, scale)

    return {"memory_efficient_attention": memory_efficient_attention}


PACKAGES: dict[str, tuple[Callable[[StandIn], dict[str, Any]], int]] = {
    "flash": (flash, 1),
    "kitchen-int8": (kitchen, 2),
    "sage": (sage, 2),
    "sage3": (sage3, 2),
    "xformers": (xformers, 1),
}


@pytest.fixture(params=list(PACKAGES))
def packaged(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, StandIn]]:
    """A kernel with a stand-in for its package, allowed on a CPU and in float32."""
    make, tokens = PACKAGES[request.param]
    stand_in = StandIn(tokens)
    for name in (PACKAGED[request.param], *(["xformers.ops"] if request.param == "xformers" else [])):
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.__path__ = []
        module.__dict__.update(make(stand_in))
        monkeypatch.setitem(sys.modules, name, module)
    kernel = get_processor(request.param)
    anywhere = dataclasses.replace(kernel.limits, devices=None, dtypes=None, capability=None)
    monkeypatch.setattr(type(kernel), "limits", anywhere)
    cast(Any, kernels._unfit).cache_clear()
    yield kernel, stand_in
    cast(Any, kernels._unfit).cache_clear()


@pytest.mark.parametrize("form", list(masks()))
def test_packages_are_handed_their_own_layout(packaged: tuple[Any, StandIn], form: str) -> None:
    """With a mask only where they take one; else PyTorch's attention computes, as in a compiled block."""
    torch.manual_seed(1)
    kernel, stand_in = packaged
    mask, (q, k, v) = masks()[form], tensors()
    before = [x.clone() for x in (q, k, v)]
    four = mask if mask is None or mask.ndim == 4 else mask.view(-1, 1, QUERIES, KEYS)
    out = kernel(flat(q), flat(k), flat(v), HEADS, mask)
    torch.testing.assert_close(out, flat(plain_attention(q, k, v, four)))
    assert stand_in.calls == (mask is None or bool(kernel.limits.masks))
    assert all(map(torch.equal, (q, k, v), before)), "what the model goes on with is left alone"


def test_packages_are_handed_scale_and_heads(packaged: tuple[Any, StandIn]) -> None:
    kernel, stand_in = packaged
    q, k, v = tensors(key_heads=2)
    out = kernel(q, k, v, HEADS, None, True, True, 0.3, True)
    k, v = (x.repeat_interleave(2, dim=1) for x in (k, v))
    torch.testing.assert_close(out, (q @ k.transpose(-2, -1) * 0.3).softmax(-1) @ v)
    assert stand_in.calls == 1


def test_a_call_beyond_the_limits_stays_with_comfyuis_attention(packaged: tuple[Any, StandIn]) -> None:
    """Uncompiled, it is the host's function that computes, with all that the model passed to it."""
    kernel, stand_in = packaged
    q, k, v = (torch.randn(1, 5, 2 * 320) for _ in "qkv")  # head size 320
    asked = []

    def hosts(*args: Any, **kwargs: Any) -> str:
        asked.append((args, kwargs))
        return "the host's"

    if kernel.limits.max_head_dim or kernel.limits.head_dims:
        out = kernel_override(kernel)(hosts, q, k, v, 2, _inside_attn_wrapper=True, transformer_options={"a": 1})
        assert (out, stand_in.calls) == ("the host's", 0)
        ((args, kwargs),) = asked
        assert args[0] is q and kwargs == {"_inside_attn_wrapper": True, "transformer_options": {"a": 1}}
    if kernel.approximate:
        q, k, v = map(flat, tensors())
        override = kernel_override(kernel)
        assert override(hosts, q, k, v, HEADS, low_precision_attention=False) == "the host's"
        assert isinstance(override(hosts, q, k, v, HEADS), torch.Tensor)


def test_kernels_need_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits that are stated on the classes, at the borders."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    gpu = torch.device("cuda", 0)

    def reasons(name: str, dtype: torch.dtype = torch.float16, head_dim: int = 64) -> str:
        return "; ".join(one.why for one in get_processor(name).limits.not_supported_reasons(gpu, dtype, head_dim))

    assert [name for name in (*EVERYWHERE, *PACKAGED, "sdpa-flash", "sdpa-cudnn") if reasons(name)] == ["sage3"]
    assert reasons("sage3") == "compute capability 8.9 < 10.0, the least that it supports"
    assert reasons("sage", head_dim=40) == "head size 40 is not among 64, 96, 128"
    assert reasons("flash", torch.float32) == "dtype float32 is not among bfloat16, float16"
    assert reasons("kitchen-int8", head_dim=320) == "head size 320 > 256, the most that it supports"
    for name in PACKAGED:
        (first, *_) = get_processor(name).limits.not_supported_reasons(torch.device("cpu"), torch.float16, 64)
        assert (first.why, first.fix) == ("device cpu is not among cuda", "run the model on cuda")


def test_a_missing_package_says_how_it_gets_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking imports nothing."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    before = set(sys.modules)
    absent: dict[str, Any] = {name: kernel_of(name).absent() for name in PACKAGED}
    assert absent["sage"].why == "the package sageattention is not installed"
    assert with_python(absent["sage"].fix).endswith("-m pip install sageattention” and restart ComfyUI")
    assert absent["kitchen-int8"].fix == "update ComfyUI", "it is pinned there"
    assert all(absent.values()) and set(sys.modules) == before
    assert [kernel_of(name).absent() for name in EVERYWHERE] == [None] * len(EVERYWHERE)


def test_a_package_that_is_too_old_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from onediff_pack.processors.kernels import package

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    for version, found in (("0.2.30", "thing 0.2.30 is older than 0.2.31"), ("0.2.31+cu130", None), ("0.10", None)):
        monkeypatch.setattr(package, "package_version", lambda name, version=version: version)
        absent = Package("thing", "update ComfyUI", least="0.2.31").absent()
        assert (absent and absent.why) == found


def test_cudnn_comes_first_on_hopper_and_blackwell_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from onediff_pack.processors.built_in import sdpa

    asked: list[list[Any]] = []

    class Order:
        def __init__(self, order: list[Any], set_priority: bool = False) -> None:
            asked.append(order)

        __enter__ = __exit__ = lambda *_: None

    monkeypatch.setattr(sdpa, "sdpa_kernel", Order)
    for capability in ((8, 0), (8, 9), (9, 0), (10, 0), (12, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        with get_processor("sdpa").while_sampling(torch.device("cuda", 0)):
            pass
    assert [order[0].name for order in asked] == ["CUDNN_ATTENTION"] * 2
    with get_processor("sdpa").while_sampling(torch.device("cpu")):
        pass
    assert len(asked) == 2


def test_adding_a_kernel_takes_attend_and_limits() -> None:
    """Layout, masks, fewer key heads and the scale are done once."""

    class Formula(Kernel):
        limits = Limits(masks=frozenset({"additive"}), gqa=False)

        def attend(self, q, k, v, mask, scale):
            return (q @ k.transpose(-2, -1) * scale + (0 if mask is None else mask)).softmax(-1) @ v

    q, k, v = tensors(key_heads=2)
    mask = masks()["bool 3-d"]
    out = Formula()(q, k, v, HEADS, mask, True, False, None, True)
    torch.testing.assert_close(out, get_processor("sdpa")(q, k, v, HEADS, mask, True, False, None, True))


def test_every_built_in_name_is_a_kernel_but_the_formula() -> None:
    names = processor_names()
    assert names[0] == "sdpa"
    assert {name for name in names if not isinstance(get_processor(name), Kernel)} == {"reference"}
    assert {"sdpa-flash", "sdpa-cudnn", "sdpa-efficient", *EVERYWHERE, *PACKAGED} <= set(names)
    exact = {name for name in names if not get_processor(name).approximate}
    assert set(names) - exact == {"sage", "sage3", "kitchen-int8"}
