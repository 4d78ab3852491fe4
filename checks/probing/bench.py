"""Calls a processor as the host would at its site, with inputs of any making."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ...patching.inside import modules_in
from ...patching.user_errors import error_words, files_of, lines_in
from ...processors import Level, Site
from ...processors.built_in.sdpa import SDPAProcessor
from ...processors.elsewhere import CallKind
from ..mounted import Mounted
from ..source import function_location, short_path
from .cases import BATCHES, DTYPES, FLAT, LATENTS, SPLIT, Brought, Case, Layout, cases
from .standin import Make, stand_in

#: Makes an input of a shape and dtype.
New = Callable[[tuple[int, ...], torch.dtype], torch.Tensor]
Inputs = Mapping[str, torch.Tensor | None]

#: Heads of a site whose module does not tell; any number shows the same.
UNKNOWN_HEADS, UNKNOWN_HEAD_DIM = 2, 64


@dataclass(frozen=True)
class Geometry:
    """Sizes of a site: heads, channels of a head, channels of the hidden states and of the context."""

    heads: int
    head_dim: int
    width: int
    context_width: int


def geometry(site: Site) -> Geometry:
    """The sizes of a site, from its projections where it has them."""
    module = site.module
    heads = next((n for name in ("heads", "num_heads", "n_heads") if isinstance(n := getattr(module, name, 0), int)), 0)
    heads = heads or UNKNOWN_HEADS
    if site.has_projections:
        inner, width = _features(module.to_q)
        return Geometry(heads, inner // heads, width, _features(module.to_k)[1])
    hidden = getattr(module, "hidden_size", None)
    head_dim = site.head_dim or (hidden // heads if isinstance(hidden, int) else UNKNOWN_HEAD_DIM)
    return Geometry(heads, head_dim, heads * head_dim, heads * head_dim)


def _features(linear: Any) -> tuple[int, int]:
    """Outputs and inputs of a projection."""
    return linear.out_features, linear.in_features


def cases_of(mounted: Mounted, thorough: bool | None = None) -> tuple[Case, ...]:
    """What to try at a site. Flat q, k and v are all that a module with projections passes on."""
    thorough = mounted.thorough if thorough is None else thorough
    if mounted.level == "module" and not mounted.site.has_projections:
        return ()
    own = mounted.site.has_projections
    prompts: tuple[int | None, ...] = (None,) if own and mounted.site.kind == "self" else (77, 154)
    layouts = (FLAT,) if own else (FLAT, SPLIT, Layout(True, True))
    dtypes = dtypes_of(mounted)
    usual = [dtype for dtype in dtypes if dtype == mounted.dtype]
    ordinary = itertools.product(BATCHES[:2], prompts, LATENTS, (None,), usual, layouts)
    return tuple(dict.fromkeys([*(Case(*v) for v in ordinary), *cases(prompts, dtypes, layouts, thorough)]))


def dtypes_of(mounted: Mounted) -> tuple[torch.dtype, ...]:
    """The dtypes that a processor says it takes; a scripted one keeps its own."""
    if any(isinstance(module, torch.jit.ScriptModule) for _, module in modules_in(mounted.module)):
        return (mounted.dtype,)
    allowed = mounted.processor.limits.dtypes
    every = dict.fromkeys((mounted.dtype, *DTYPES))
    return tuple(dtype for dtype in every if allowed is None or dtype in allowed)


def make_inputs(mounted: Mounted, case: Case, new: New) -> Inputs:
    """The tensors of a call, by name."""
    shape, site = geometry(mounted.site), mounted.site
    latent, prompt = case.latent[0] * case.latent[1], case.prompt or 0
    queries, keys = latent, latent
    if site.kind == "cross":
        keys = prompt
    elif not site.has_projections:
        queries = keys = latent + prompt  # picture and prompt in one sequence
    mask = None
    if case.mask is not None:
        form = case.mask.shape(case.batch, shape.heads, queries, keys)
        mask = new(form, torch.bool if case.mask.boolean else case.dtype)
    if mounted.level == "module":
        return {
            "hidden_states": new((case.batch, queries, shape.width), case.dtype),
            "encoder_hidden_states": None
            if site.kind == "self"
            else new((case.batch, keys, shape.context_width), case.dtype),
            "attention_mask": mask,
        }

    def tokens(count: int) -> torch.Tensor:
        flat = new((case.batch, count, shape.heads * shape.head_dim), case.dtype)
        return flat.unflatten(-1, (shape.heads, -1)).transpose(1, 2) if case.layout.split_in else flat

    return {"q": tokens(queries), "k": tokens(keys), "v": tokens(keys), "mask": mask}


def expected_shape(mounted: Mounted, case: Case, inputs: Inputs) -> tuple[int, ...]:
    """The shape of the result: that of the original."""
    shape = geometry(mounted.site)
    first = inputs["hidden_states" if mounted.level == "module" else "q"]
    assert first is not None
    batch, tokens = first.shape[0], first.shape[2 if case.layout.split_in else 1]
    if mounted.level == "module":
        return batch, tokens, shape.width
    return (batch, shape.heads, tokens, shape.head_dim) if case.layout.split_out else (batch, tokens, _inner(shape))


def _inner(shape: Geometry) -> int:
    return shape.heads * shape.head_dim


def call(processor: nn.Module, level: Level, attn: nn.Module | None, heads: int, case: Case, inputs: Inputs) -> Any:
    """One call, argument for argument as a patched site makes it."""
    first = next(iter(inputs.values()))
    assert first is not None
    more = options_for(processor, case.batch, first.device)
    if level == "module":
        return processor(attn, *inputs.values(), None, *more)
    q, k, v, mask = inputs.values()
    return processor(q, k, v, heads, mask, case.layout.split_in, case.layout.split_out, None, False, *more)


def options_for(processor: nn.Module, batch: int, device: torch.device) -> tuple[dict[str, Any], ...]:
    """What the host passes as ``transformer_options``, where a processor takes them: a noise level for each picture,
    which with CFG are half as many as there are in the batch."""
    if not getattr(processor, "takes_options", False):
        return ()
    pictures = max(1, batch // 2)
    sigmas, every = torch.ones(pictures, device=device), torch.linspace(2, 0, 5, device=device)
    conds = [1, 0] if batch > 1 else [0]
    place = {"block": ("middle", 0), "block_index": 0, "transformer_index": 0}
    given = {"sigmas": sigmas, "sample_sigmas": every, "cond_or_uncond": conds, "patches": {}, "patches_replace": {}}
    return ({**given, **place},)


def site_stand_in(site: Site, make: Make) -> nn.Module | None:
    """The site's module for module-level processors to project with, None where it has no projections."""
    if not site.has_projections:
        return None
    module = stand_in(site.module, make).eval()
    module.__dict__.pop("forward", None)  # what other nodes patched there is not the site's
    return module


_SDPA = SDPAProcessor().eval()


def original(level: Level, attn: nn.Module | None, heads: int, case: Case, inputs: Inputs) -> torch.Tensor:
    """What the site computes without a processor, with PyTorch's attention."""
    if level == "kernel":
        return call(_SDPA, level, None, heads, case, inputs)
    site: Any = attn
    x, context, mask = inputs.values()
    context = x if context is None else context
    return site.to_out(_SDPA(site.to_q(x), site.to_k(context), site.to_v(context), heads, mask))


def _files(mounted: Mounted) -> set[str]:
    """Evidence: where its classes are written."""
    return files_of(mounted.module)


@dataclass(frozen=True)
class Raised:
    """An exception in words, and the "file:line" of the user's code that it left last."""

    error: str
    where: str | None


def raised(error: BaseException, mounted: Mounted) -> Raised:
    """Finds the last line of the processor's own file, or of a base class's, that an exception passed."""
    lines = lines_in(error, mounted.evidence(_files))
    where = f"{short_path(lines[-1][0])}:{lines[-1][1]}" if lines else function_location(type(mounted.module).forward)
    return Raised(error_words(error), where)


# Which calls an ordinary run of a model makes at a site: one picture with and without CFG, in the model's own dtype,
# with what its blocks hand to attention.

#: The largest batch of one picture: with CFG, prompt and negative prompt may come in one call.
ONE_PICTURE = 2

#: What a call may be out of the ordinary in. A failure is put down to the last one that it depends on.
AXES = ("dtype", "batch", "layout", "mask")


def brought(mounted: Mounted) -> Brought:
    """Evidence: what the model's blocks hand to the site. Where nobody knows, no mask, and heads apart, as most do."""
    known = mounted.ask()
    layouts = frozenset({FLAT}) if mounted.site.has_projections else frozenset({SPLIT})
    return known if known is not None and known.layouts else Brought(frozenset(), layouts)


def odd(mounted: Mounted, case: Case) -> list[str]:
    """What of a case no ordinary run of the model brings; nothing when one does."""
    found = []
    if case.dtype != mounted.dtype:
        found.append("dtype")
    if case.batch > ONE_PICTURE:
        found.append("batch")
    if not mounted.site.has_projections and case.layout not in mounted.evidence(brought).layouts:
        found.append("layout")
    if case.mask is not None and case.mask not in mounted.evidence(brought).masks:
        found.append("mask")
    return found


def usual(mounted: Mounted, case: Case, axis: str) -> Case:
    """The case with an ordinary value in the place of that of ``axis``."""
    if axis == "dtype":
        return replace(case, dtype=mounted.dtype) if mounted.dtype in dtypes_of(mounted) else case
    if axis == "batch":
        return replace(case, batch=min(case.batch, ONE_PICTURE))
    if axis == "layout":
        known = sorted(mounted.evidence(brought).layouts, key=repr) if not mounted.site.has_projections else [FLAT]
        return case if case.layout in known else replace(case, layout=known[0])
    return replace(case, mask=None)


def kind_of(mounted: Mounted, case: Case) -> CallKind:
    """The kind of calls that a case out of the ordinary stands for."""
    out = odd(mounted, case)
    mask = case.mask if "mask" in out else None
    return CallKind(
        mask=None if mask is None else (mask.dims, mask.boolean),
        dtype=case.dtype if "dtype" in out else None,
        above=ONE_PICTURE if "batch" in out else None,
        layout=(case.layout.split_in, case.layout.split_out) if "layout" in out else None,
    )
