"""Sentences on calls that fail: which ones, when that matters, and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ...patching.user_errors import cause_in_words
from ...processors.elsewhere import CallKind
from ..mounted import Mounted
from .bench import ONE_PICTURE, Raised
from .cases import BATCHES, MASKS, Case, Layout, Mask, in_words, phrases, share

Values = dict[str, object]

SERVED = "Such calls are computed by PyTorch's attention (sdpa) instead."


def in_an_ordinary_run(error: Raised, failing: Sequence[Case], tried: Sequence[Case]) -> Values:
    """``what``, ``why`` and ``fix`` of an error that an ordinary run meets."""
    told = _named_cause(error)
    raises = f"It raises {error.error}."
    if told is not None:
        what, fix = told
        return {"what": what, "why": f"{raises} {share(failing, tried)}.", "fix": fix}
    common = phrases(failing, tried)
    return {
        "what": f"fails with {' and '.join(common)}" if common else "fails in every call",
        "why": f"An ordinary run calls it so and would stop there. {raises} {share(failing, tried)}.",
        "fix": _remedy(failing, tried),
    }


def elsewhere(mounted: Mounted, kinds: Sequence[CallKind], error: Raised | None = None) -> Values:
    """The same for calls that no ordinary run of the model makes."""
    raises = "" if error is None else f" It raises {error.error}."
    return {
        "what": f"fails with {' or '.join(named(kinds))}",
        "why": f"{when(mounted, kinds)} {SERVED}{raises}",
        "fix": _remedy_elsewhere(mounted, kinds),
    }


def named(kinds: Sequence[CallKind]) -> list[str]:
    """Kinds of calls in words: "a bool mask (batch, queries, keys)", "float16 inputs", "a batch of more than 2"."""
    masks = [kind.mask for kind in kinds if kind.mask is not None and kind == CallKind(mask=kind.mask)]
    dtypes = [kind.dtype for kind in kinds if kind.dtype is not None and kind == CallKind(dtype=kind.dtype)]
    found = [in_words([Mask(*mask) for mask in masks])] if masks else []
    if dtypes:
        found.append(f"{' or '.join(sorted(map(_name, dtypes)))} inputs")
    for kind in kinds:
        if (kind.mask, kind.dtype, kind.above, kind.layout).count(None) < 3 or kind.above or kind.layout:
            found.append(" and ".join(_parts(kind)))
    return list(dict.fromkeys(found))


def _parts(kind: CallKind) -> Iterator[str]:
    if kind.mask is not None:
        yield in_words([Mask(*kind.mask)])
    if kind.dtype is not None:
        yield f"{_name(kind.dtype)} inputs"
    if kind.above is not None:
        yield f"a batch of more than {kind.above}"
    if kind.layout is not None:
        yield str(Layout(*kind.layout)) if kind.layout[0] else "flat q, k, v"


def when(mounted: Mounted, kinds: Sequence[CallKind]) -> str:
    """When calls of these kinds come."""
    said = []
    if any(kind.mask for kind in kinds):
        said.append("This model's own blocks bring no such mask; nodes for regional prompts may.")
    if any(kind.dtype for kind in kinds):
        said.append(f"This model computes in {_name(mounted.dtype)}; it matters for models that do not.")
    if any(kind.above for kind in kinds):
        said.append("It matters for several pictures at once.")
    if any(kind.layout for kind in kinds):
        said.append("This model's blocks call it in another way; it matters for models that call it so.")
    return " ".join(said)


def mask_name(mounted: Mounted) -> str:
    """The name under which a processor takes the mask."""
    own = "mask" if mounted.level == "kernel" else "attention_mask"
    named: Any = getattr(getattr(mounted.processor, "plan", None), "named", {})
    return str(named.get(own, own))


def per_head(mounted: Mounted) -> str:
    """How a mask of three dimensions is given one for the heads; where a processor of diffusers' kind joins the heads
    to the batch, how each mask is brought to that form."""
    mask = mask_name(mounted)
    if _joins_heads(mounted):
        return (
            f"Bring it to the form that heads have here, (batch * heads, queries, keys), before anything else: "
            f"{mask} = attn.prepare_attention_mask({mask}, tokens, batch), for the tokens and the batch of the keys."
        )
    return f"Give one a dimension for the heads: if {mask} is not None and {mask}.ndim == 3: {mask} = {mask}[:, None]."


def _joins_heads(mounted: Mounted) -> bool:
    code = getattr(type(mounted.module).forward, "__code__", None)
    used = {"get_attention_scores", "head_to_batch_dim", "baddbmm", "bmm"}
    return mounted.level == "module" and code is not None and not used.isdisjoint(code.co_names)


def _remedy_elsewhere(mounted: Mounted, kinds: Sequence[CallKind]) -> str:
    masks = {kind.mask for kind in kinds if kind.mask is not None}
    if len(masks) == len(MASKS):  # not its dimensions are the matter
        mask = mask_name(mounted)
        return (
            f"{mask} has one key for each token of the prompt, or of the picture in self-attention. Where keys are cut "
            f"off or added, do the same to it: {mask}[..., :keys] or torch.nn.functional.pad."
        )
    return " ".join(dict.fromkeys(_remedy_for(mounted, kind) for kind in kinds))


def _remedy_for(mounted: Mounted, kind: CallKind) -> str:
    mask = mask_name(mounted)
    if kind.mask is not None:
        if kind.mask[0] == 3 or _joins_heads(mounted):
            return per_head(mounted)
        if kind.mask[0] == 2:
            return f"Give such a mask dimensions for batch and heads: {mask}[None, None]."
        return f"Take {mask} as scaled_dot_product_attention does: it broadcasts to (batch, heads, queries, keys)."
    if kind.dtype is not None:
        return "Make tensors in the dtype of the input: .to(x.dtype), torch.zeros_like(x)."
    if kind.above is not None:
        return "Take the batch from the input: x.shape[0]."
    return "Take skip_reshape, skip_output_reshape and **kwargs out of forward: heads then come and go together."


def _remedy(failing: Sequence[Case], tried: Sequence[Case]) -> str:
    """What to write, by what the failing cases have in common."""

    def only(axis: str) -> set:
        values = {getattr(case, axis) for case in failing}
        return values if values != {getattr(case, axis) for case in tried} else set()

    if only("batch") & set(BATCHES) and 1 in only("batch"):
        return "Take the batch from the input, x.shape[0]: without CFG a call has a batch of 1."
    if only("prompt"):
        return "Take the number of prompt tokens from the input, x.shape[1]: it is 77 for a short prompt, then 154."
    if only("latent"):
        return "Take the number of tokens from the input, x.shape[1]: pictures need not be square, nor sides even."
    if only("batch"):
        return f"Take the batch from the input, x.shape[0]: with CFG a call has a batch of {ONE_PICTURE}."
    return "Correct that line, or where what it computes with is made."


def _named_cause(error: Raised) -> tuple[str, str] | None:
    """What an exception of a common kind comes of, and what to do."""
    known = cause_in_words(error.error)
    if known is not None:
        return known
    widths = re.search(r"mat1 and mat2 shapes cannot be multiplied \(\d+x(\d+) and (\d+)x\d+\)", error.error)
    if widths:
        return (
            f"has weights for {widths[2]} channels where this place has {widths[1]}",
            f"Make its layers as wide as the place: {widths[1]} channels; or choose other places with “blocks”.",
        )
    missing = re.search(r"AttributeError: '(\w+)' object has no attribute '(\w+)'", error.error)
    if missing and missing[1] not in ("Tensor", "NoneType"):
        of = "the attention module" if missing[1] in ("CrossAttention", "AttnView") else missing[1]
        return (
            f"asks {of} for {missing[2]}, which it does not have",
            f"Do without {missing[2]}, or set it in __init__ of the processor.",
        )
    return None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
