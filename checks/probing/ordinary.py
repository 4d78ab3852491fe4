"""Which calls an ordinary run of a model makes at a site: one picture with and without CFG, in the model's own dtype,
with what its blocks hand to attention."""

from __future__ import annotations

from dataclasses import replace

from ...processors.elsewhere import CallKind
from ..mounted import Mounted
from .bench import dtypes_of
from .cases import FLAT, SPLIT, Brought, Case

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
