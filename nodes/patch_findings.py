"""What Patch Attention Processors says of its inputs and of places where a processor cannot be used."""

from __future__ import annotations

from typing import Any

from ..checks import Finding
from ..host.known_values import shown
from ..node_ids import PATCH_ATTENTION
from ..processors import (
    DEFAULT_PROCESSOR,
    BlocksTooLong,
    Processor,
    Site,
    UnknownSites,
    Unsupported,
    remedy,
)
from ..processors.attention_patch import not_patchable_reason
from ..processors.choosing.auto_patch import AUTO


def fitting(sites: list[Site], name: str, processor: Processor, model: Any, findings: list[Finding]) -> list[Site]:
    """The sites where this processor can be used; sites that it does not fit for the same reasons become one
    finding."""
    dtype = model.model.get_dtype_inference()
    unfit: dict[tuple[Unsupported, ...], list[Site]] = {}
    fitting = []
    for site in sites:
        reasons = processor.limits.not_supported_reasons(model.load_device, dtype, site.head_dim)
        not_patchable = not_patchable_reason(site, processor)
        if not_patchable is not None:
            reasons.insert(0, Unsupported(not_patchable))
        if reasons:
            unfit.setdefault(tuple(reasons), []).append(site)
        else:
            fitting.append(site)
    for reasons_here, places in unfit.items():
        findings.append(
            Finding(
                severity="warning",
                path=places[0].path,
                cls=type(places[0].module).__name__,
                where="blocks",
                what=f"{len(places)} of {len(sites)} chosen places keep their own attention",
                why=f"{'; '.join(reason.why for reason in reasons_here)}.",
                fix="Nothing is wrong with the picture." if name in (AUTO, DEFAULT_PROCESSOR) else remedy(reasons_here),
            )
        )
    return fitting


def nothing_chosen(kind: str) -> Finding:
    return Finding(
        severity="warning",
        path="sites",
        cls=PATCH_ATTENTION,
        where="input",
        what=f"this model has no {kind} attention site among the chosen blocks",
        why="Flux and its like attend to picture and prompt at once, which counts as self.",
        fix="Set sites to all.",
    )


def no_such_site(error: UnknownSites | BlocksTooLong) -> Finding:
    what, fix = str(error).rstrip("."), "Name fewer, with * for what differs."
    if isinstance(error, UnknownSites):
        what = f"{shown(error.glob)} matches no attention site of this model"
        fix = f"Near matches: {', '.join(error.near)}." if error.near else "Leave blocks empty for all sites."
    return Finding(
        severity="error",
        path="blocks",
        cls=PATCH_ATTENTION,
        where="input",
        what=what,
        why="The run stops, because a patch that silently reaches nothing would look as if it worked.",
        fix=fix,
    )


def no_processor(custom: Any) -> Finding:
    return Finding(
        severity="warning",
        path="custom",
        cls=PATCH_ATTENTION,
        where="input",
        what=f"custom is {shown(custom)}, not a loaded processor; the one that “processor” names is used",
        why="A script, or a node that is connected to it, gave a value of another kind.",
        fix="Connect a node that loads a processor, or nothing.",
    )
