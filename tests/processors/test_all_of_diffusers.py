"""Every attention processor class of the installed diffusers, in whichever of its files: what the check says of it at
a UNet's site, and what happens when it is really run there.

Those that the node offers, and what stands beside them in their file; the others with ``scripts/test.py --all``, which
imports each of diffusers' models for that. Run it so with ``-s`` to read the list of all classes with the reason why
each fits or does not.
"""

from __future__ import annotations

import ast
import functools
import importlib
import itertools
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import gallery
import pytest
import torch
from onediff_pack.checks import Finding, check_processor
from onediff_pack.checks import processor as check
from onediff_pack.processors import Processor
from onediff_pack.processors.authored.attn_view import AttnView
from onediff_pack.processors.authored.make import CannotLoad, make
from onediff_pack.processors.sources import diffusers_classes as from_diffusers
from torch import nn

pytestmark = pytest.mark.usefixtures("host")

FILE = from_diffusers.source_file()
if FILE is None:
    pytest.skip("diffusers is not installed", allow_module_level=True)
PACKAGE = FILE.parents[1]

NAMED_SO = re.compile(r"(Attn|Attention)(Added\w+)?Processor(\d_\d)?(_NPU)?$")
KINDS = ("self", "cross")
TOKENS, KEYS, WIDTH, CONTEXT, HEADS = 16, 7, 32, 24, 2


class Listed(NamedTuple):
    """A class in a file of diffusers, found in its text."""

    path: Path
    name: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(PACKAGE).as_posix()}:{self.name}"


def listed() -> Iterator[Listed]:
    """Classes that are called with ``attn`` first, and those that are named like such a class and are not."""
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_bytes()
        if re.search(rb"self,\s*attn\b|class \w*Att\w*Processor", text):
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ClassDef) and (NAMED_SO.search(node.name) or _takes_attn(node)):
                    yield Listed(path, node.name)


def _takes_attn(node: ast.ClassDef) -> bool:
    entries = [m for m in node.body if isinstance(m, ast.FunctionDef) and m.name in ("__call__", "forward")]
    return any([a.arg for a in entry.args.args[1:2]] == ["attn"] for entry in entries)


CLASSES = tuple(listed())


class Ran(NamedTuple):
    """What really happened at a site. ``fault`` is an error, or a result that cannot be the site's, ``stops`` one that
    an ordinary run meets: one picture, in the model's dtype, without a mask; ``plain`` whether
    it is PyTorch's attention without a mask; ``masks`` are "used", "ignored" or "misread", where that can be told."""

    fault: str
    plain: bool
    masks: frozenset[str]
    stops: str = ""

    def __str__(self) -> str:
        if self.fault:
            return self.fault
        maths = "equal to PyTorch's attention" if self.plain else "runs, with maths of its own"
        return f"{maths}{''.join(f', masks {word}' for word in sorted(self.masks - {'used'}))}"


class Judged(NamedTuple):
    """A class: why it cannot be mounted (""), and for each kind of site what was found and what happened."""

    not_mounted: str
    sites: dict[str, tuple[tuple[Finding, ...], Ran]]


@functools.cache
def judged(entry: Listed) -> Judged:
    """Everything about a class but how it compiles, which takes the longest."""
    try:
        processor = made(entry)
    except CannotLoad as error:
        return Judged(f"{error.what}: {error.why}", {})
    except ImportError as error:
        return Judged(f"its file cannot be imported: {error}", {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "MOUNTED_LAYERS", ("weights", "probe"))
        found = {kind: check_processor(processor, gallery.site(kind), thorough=False) for kind in KINDS}
    if not isinstance(processor, Processor):
        reason = next((f.what for f in found["self"] if f.severity == "error"), "")
        return Judged(f"cannot be called at a UNet's site: {reason}", {kind: (f, NOT_RUN) for kind, f in found.items()})
    return Judged("", {kind: (found[kind], run(processor, kind)) for kind in KINDS})


NOT_RUN = Ran("cannot be called", False, frozenset(), "cannot be called")


def made(entry: Listed) -> nn.Module:
    name = ".".join(("diffusers", *entry.path.relative_to(PACKAGE).with_suffix("").parts))
    cls = getattr(importlib.import_module(name), entry.name)
    return make(entry.name, cls, str(entry.path), entry.path.name)


def run(processor: nn.Module, kind: str) -> Ran:
    """Calls a processor at a site with batches, masks and dtypes that ComfyUI may bring."""
    faults, masks, plain, stops = [], set(), True, []
    torch.manual_seed(0)
    for batch, dtype in (*((batch, torch.float32) for batch in (1, 2, 4)), (2, torch.bfloat16), (1, torch.float16)):
        host = gallery.site(kind).module.to(dtype)
        keys = KEYS if kind == "cross" else TOKENS
        x = torch.randn(batch, TOKENS, WIDTH, dtype=dtype)
        context = torch.randn(batch, keys, CONTEXT, dtype=dtype) if kind == "cross" else None
        unmasked, exact = None, False
        for mask in (None, *masks_for(batch, keys, dtype)):
            before = len(faults)
            expected = host(x, context, mask=mask)
            try:
                result = processor(host, x, context, mask)
            except Exception as error:
                faults.append(f"raises {type(error).__name__}: {error}".splitlines()[0])
                if mask is None and dtype is torch.float32 and batch <= 2:
                    stops.append(faults[-1])
                continue
            if not isinstance(result, torch.Tensor):
                faults.append(f"returns {type(result).__name__}")
            elif (result.shape, result.dtype) != (expected.shape, dtype):
                faults.append(f"returns {tuple(result.shape)}, {result.dtype}")
            elif not result.isfinite().all() and mask is None:
                faults.append("returns NaN or Inf")
            elif dtype is torch.float32 and mask is None:
                unmasked = result
                exact = same(result, expected)
                plain &= exact
            elif dtype is torch.float32 and unmasked is not None:
                masks.add(use_of(result, expected, unmasked, exact))
            if mask is None and dtype is torch.float32 and batch <= 2:
                stops += faults[before:]
    return Ran("; ".join(dict.fromkeys(faults)), plain, frozenset(masks), "; ".join(dict.fromkeys(stops)))


def masks_for(batch: int, keys: int, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """Of 2, 3 and 4 dimensions, bool and additive."""
    for shape in ((TOKENS, keys), (batch, TOKENS, keys), (batch, HEADS, TOKENS, keys)):
        allowed = torch.rand(shape) > 0.3
        allowed[..., 0] = True  # a row without any key has no result
        yield allowed
        yield torch.randn(shape, dtype=dtype)


def use_of(result: torch.Tensor, expected: torch.Tensor, unmasked: torch.Tensor, exact: bool) -> str:
    if same(result, unmasked):
        return "ignored"
    return "used" if same(result, expected) or not exact else "misread"


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-5, rtol=1e-4)


def errors(findings: tuple[Finding, ...]) -> list[Finding]:
    return [finding for finding in findings if finding.severity == "error"]


BESIDE = [entry for entry in CLASSES if entry.path == FILE]
ENTRIES = [
    pytest.param(entry, kind, marks=[] if entry in BESIDE else [pytest.mark.long])
    for entry, kind in itertools.product(CLASSES, KINDS)
]


@pytest.mark.parametrize(("entry", "kind"), ENTRIES, ids=str)
def test_verdict_and_outcome_agree(entry, kind):
    """No false "fine": what fails in an ordinary run has an error, and what fails elsewhere goes to sdpa there. No
    false alarm: what runs has no error."""
    result = judged(entry)
    if not result.sites:
        assert len(result.not_mounted) > 30, "a class that is not made is listed with the reason"
        return
    findings, ran = result.sites[kind]
    wrong = errors(findings)
    rules = {finding.rule for finding in findings}
    assert bool(wrong) == bool(ran.stops), f"{ran}, and the check says {wrong or 'nothing'}"
    assert all(finding.why and finding.fix for finding in wrong)
    if not wrong and (ran.fault or "misread" in ran.masks):
        assert any(finding.served for finding in findings), ran
    elif wrong:
        assert re.fullmatch(r"diffusers/[\w/]+\.py:\d+", str(wrong[0].where))
    else:
        assert ("ignores-mask" in rules) == ("ignored" in ran.masks), ran


def right(classes: Sequence[Listed] = CLASSES) -> list[Listed]:
    """Classes that are PyTorch's attention at both kinds of sites, with every mask."""
    exact = Ran("", True, frozenset({"used"}))
    return [e for e in classes if judged(e).sites and all(ran == exact for _, ran in judged(e).sites.values())]


def test_those_that_the_node_offers_compute_pytorchs_attention():
    offered = {name.removeprefix(from_diffusers.PREFIX) for name in from_diffusers.names()}
    assert {"AttnProcessor", "AttnProcessor2_0"} <= offered <= {e.name for e in right(BESIDE)}


@pytest.mark.long
def test_every_class_has_its_place_in_the_list():
    """Prints the list."""
    groups = defaultdict(list)
    for entry in CLASSES:
        result = judged(entry)
        words = " | ".join(dict.fromkeys(f"{kind}: {ran}" for kind, (_, ran) in result.sites.items()))
        if result.not_mounted:
            groups["cannot be mounted"].append(f"{entry}: {result.not_mounted}")
        elif entry in right():
            groups["fits"].append(str(entry))
        elif any(errors(findings) for findings, _ in result.sites.values()):
            groups["does not fit"].append(f"{entry}: {words}")
        else:
            groups["runs, and differs"].append(f"{entry}: {words}")
    for title, lines in groups.items():
        sys.stdout.write("\n  ".join([f"\n{title} ({len(lines)})", *(line[:400] for line in lines)]) + "\n")
    assert sum(map(len, groups.values())) == len(CLASSES) > 60


@pytest.mark.long
def test_those_that_fit_have_no_error_with_everything_looked_at():
    """The graph capture and every combination of inputs, too, which are left out above. Those of UNets are looked at
    so where they are offered."""
    for entry in right():
        for kind in KINDS if entry.path != FILE else ():
            assert not errors(check_processor(made(entry), gallery.site(kind))), entry


def test_the_view_has_all_that_diffusers_attention_has():
    """An AttributeError is then the processor's: it was made for an attention of another kind."""
    from diffusers.models.attention_processor import Attention

    theirs = Attention(query_dim=WIDTH, heads=HEADS, dim_head=WIDTH // HEADS, bias=False)
    view = AttnView(gallery.site("self").module, torch.float32)
    names = [n for n in (*vars(theirs), *theirs._modules) if not n.startswith("_") and n not in vars(nn.Module())]
    values = {name: getattr(theirs, name) for name in names if name != "processor"}
    for name, value in values.items():
        ours = getattr(view, name)
        assert isinstance(value, nn.Module) or ours == value, name
        assert value is None or ours is not None, name
