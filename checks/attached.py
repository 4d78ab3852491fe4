"""Checks the processors of a model's sites: equal sites once, and nothing twice while the processors are the same."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterable
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..patching.user_code import Attendance, Cancel
from ..processors import Site, written
from ..processors.authored.state import Kept, outside
from .finding import Finding
from .probing.bench import geometry
from .probing.patience import FINAL, cannot_be_looked_at
from .processor import check_processor

_Known = dict[Hashable, tuple[Finding, ...]]

#: What was found out, by processor. Findings and keys hold neither the processor nor a model.
_known: WeakKeyDictionary[nn.Module, _Known] = WeakKeyDictionary()
_lock = threading.Lock()


def check_attached(
    attached: Iterable[tuple[Site, nn.Module]],
    dtype: torch.dtype,
    device: torch.device,
    cancel: Cancel | None = None,
) -> list[Finding]:
    """The findings on processors at their sites.

    A finding that comes at several sites is given once, with the first one's path; ``Finding.also`` has the others'.
    Each processor is given 60 s at each kind of site; one that needed more is not tried at others.
    """
    cancel = cancel or Cancel()
    merged: dict[Hashable, Finding] = {}
    for site, processor in attached:
        for finding in _findings(site, processor, dtype, device, cancel):
            fault = (finding.rule, finding.cls, finding.where, finding.severity)
            first = merged.setdefault(fault, finding)
            if first is not finding:
                merged[fault] = replace(first, also=(*first.also, finding.path))
    return [_counted(finding) for finding in merged.values()]


def _findings(
    site: Site, processor: nn.Module, dtype: torch.dtype, device: torch.device, cancel: Cancel
) -> Iterable[Finding]:
    module = written(processor)
    try:
        state = _state(module)
        key = (_kind_of(site), dtype, device, state)
        with _lock:
            known = _known.setdefault(module, {})
            found = known.get(state, known.get(key))
    except cancel.stops:
        raise
    except BaseException as error:  # its own code runs where it is asked for its weights
        return [cannot_be_looked_at(f"{site.path}.processor", module, error)]
    if found is None:
        place, attendance = replace(site, path=_PLACE), Attendance(cancel)
        try:
            before = Kept(outside(type(module)))  # a sampling may go on, and its instances share this
        except Exception:  # a class may raise when it is looked at, and the check says so
            before = None
        try:
            found = check_processor(processor, place, dtype, device, thorough=False, attendance=attendance)
        finally:
            if before is not None:
                before.put_back()
        known[key] = found
        if any(finding.rule in FINAL for finding in found):
            known[state] = found
    return [replace(finding, path=site.path + finding.path.removeprefix(_PLACE)) for finding in found]


#: Stands for the path of a site in what is known of all sites like it.
_PLACE = "site"


def _kind_of(site: Site) -> Hashable:
    """Equal for sites at which a processor is called alike."""
    shapes = [(name, tuple(p.shape)) for name, p in site.module.named_parameters()] if site.has_projections else None
    return type(site.module), site.kind, site.has_projections, geometry(site), shapes and tuple(shapes)


def _state(module: nn.Module) -> Hashable:
    """Changes when a processor's tensors or mode do."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    marks = tuple((name, id(t), _version(t), t.dtype, t.device, t.requires_grad) for name, t in tensors)
    return type(module).forward, module.training, marks


def _version(tensor: torch.Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version  # inference tensors do not count


def _counted(finding: Finding) -> Finding:
    if not finding.also:
        return finding
    sites = "1 more site" if len(finding.also) == 1 else f"{len(finding.also)} more sites"
    return replace(finding, why=f"{finding.why} The same at {sites}.")
