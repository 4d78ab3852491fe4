"""A check leaves no tensor without numbers where a processor keeps tables between calls: pictures would be wrong, and
compiled code that reads such a tensor ends the process."""

from __future__ import annotations

import functools
import threading
from typing import Any

import gallery
import pytest
import torch
from onediff_pack.checks import check_processor
from onediff_pack.processors import get_processor
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")
pytestmark = pytest.mark.usefixtures("host")


def biased(q, k, v, heads, bias):
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)


@functools.lru_cache(None)
def unbounded(n, m):
    return torch.zeros(n, m)


@functools.lru_cache(maxsize=64)
def bounded(n, m):
    return torch.zeros(n, m)


@functools.lru_cache(None)
def in_a_tuple(n, m):
    return torch.zeros(n, m), n


@functools.lru_cache(None)
def with_its_device(n, m, dtype, device):
    return torch.zeros(n, m, dtype=dtype, device=device)


class Missing(dict):
    def __missing__(self, key):
        self[key] = torch.zeros(key)
        return self[key]


class Slots:
    __slots__ = ("by_size", "last")

    def __init__(self):
        self.by_size: dict[Any, torch.Tensor] = {}
        self.last: torch.Tensor | None = None

    def table(self, key):
        if key not in self.by_size:
            self.by_size[key] = torch.zeros(key)
        return self.by_size[key]

    def last_one(self, key):
        if self.last is None or self.last.shape != key:
            self.last = torch.zeros(key)
        return self.last


MISSING, SLOTS, LOCAL, TABLES = Missing(), Slots(), threading.local(), {}  # type: ignore[var-annotated]


def of_the_thread(key):
    tables = LOCAL.__dict__.setdefault("tables", {})
    if key not in tables:
        tables[key] = torch.zeros(key)
    return tables[key]


def last_of_the_thread(key):
    if getattr(LOCAL, "last", None) is None or LOCAL.last.shape != key:
        LOCAL.last = torch.zeros(key)
    return LOCAL.last


def in_a_global(key):
    if key not in TABLES:
        TABLES[key] = torch.zeros(key)
    return TABLES[key]


WAYS = {
    "lru_cache": lambda q, k: unbounded(q.shape[1], k.shape[1]),
    "lru_cache of a size": lambda q, k: bounded(q.shape[1], k.shape[1]),
    "lru_cache of tuples": lambda q, k: in_a_tuple(q.shape[1], k.shape[1])[0],
    "lru_cache by device": lambda q, k: with_its_device(q.shape[1], k.shape[1], q.dtype, q.device),
    "subclass of dict": lambda q, k: MISSING[q.shape[1], k.shape[1]],
    "dict in a slot": lambda q, k: SLOTS.table((q.shape[1], k.shape[1])),
    "slot": lambda q, k: SLOTS.last_one((q.shape[1], k.shape[1])),
    "dict of the thread": lambda q, k: of_the_thread((q.shape[1], k.shape[1])),
    "of the thread": lambda q, k: last_of_the_thread((q.shape[1], k.shape[1])),
    "global dict": lambda q, k: in_a_global((q.shape[1], k.shape[1])),
}


#: Each in a container that is found another way; a size and a device are found as ``lru_cache`` is.
LONG = ("lru_cache of a size", "lru_cache by device")


@pytest.mark.parametrize("way", [pytest.param(way, marks=[pytest.mark.long] if way in LONG else []) for way in WAYS])
def test_a_table_that_a_processor_keeps_has_numbers_after_a_check(way):
    table = WAYS[way]

    class Kept(nn.Module):
        def forward(self, q, k, v, heads, mask=None):
            return biased(q, k, v, heads, table(q, k))

    site = gallery.site()
    for _ in range(2):
        findings = check_processor(Kept(), site)
        assert [f for f in findings if f.severity == "error"] == []
        for tokens, keys in ((256, 77), (256, 154), (143, 77), (143, 154)):  # what the check tries at this site
            q, k, v = (torch.randn(2, many, 32) for many in (tokens, keys, keys))
            expected = get_processor("sdpa")(q, k, v, 4)
            found = table(q, k)
            assert type(found) is torch.Tensor and not found.is_meta
            torch.testing.assert_close(Kept()(q, k, v, 4), expected)
