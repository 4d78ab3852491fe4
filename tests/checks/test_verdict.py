"""No processor that runs to a finished picture on a model is called an error on that model, and none that is not
called one stops a run, whatever masks come."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import gallery
import pytest
import torch
from corpus.expected import ALIKE
from corpus.running import BY_NAME
from torch import nn

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")
pytestmark = pytest.mark.usefixtures("host")

CORPUS = Path(__file__).parent / "corpus" / "written"

#: The block of each family that is patched, and sizes of ordinary calls: batch, height, width, tokens of the prompt.
BLOCKS = {"SD 1.5": "middle_block.1", "SDXL": "middle_block.1", "Flux": "double_blocks.0"}
ORDINARY = ((1, 8, 8, 77), (2, 8, 10, 154))

#: Rules on pictures that are finished and wrong, and on what harms those of others: a default dtype is everybody's.
WRONG_PICTURE = {"other-order", "inverts-mask", "misreads-mask", "not-finite", "not-finite-weights"}
HARMS_OTHERS = {"sets-default-dtype"}


def _wrong_in_the_gallery() -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    gallery.load()
    yield from ((name, wrong.cls) for name, wrong in gallery.WRONG.items())


def _right_in_the_gallery() -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    gallery.load()
    yield from gallery.RIGHT.items()


def _of_the_corpus() -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    files: dict[str, Any] = {}
    for name, entry in BY_NAME.items():
        if entry.file not in files:
            path = CORPUS / f"{entry.file}.py"
            spec = importlib.util.spec_from_file_location(f"verdict_{path.stem}", path)
            files[entry.file] = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
            with contextlib.suppress(ImportError):
                spec.loader.exec_module(files[entry.file])
        cls = getattr(files[entry.file], entry.cls, None)
        if cls is not None and (name not in ALIKE or "ONEDIFF_TEST_ALL" in os.environ):
            yield name, cls


def _of_diffusers() -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    attention = pytest.importorskip("diffusers.models.attention_processor")
    every: list[tuple[str, Any]] = list(vars(attention).items())  # some import more when they are made
    for name, cls in every:
        if isinstance(cls, type) and "Processor" in name:
            yield name, cast(Callable[[], nn.Module], cls)


SOURCES = {
    "gallery, wrong": _wrong_in_the_gallery,
    "gallery, right": _right_in_the_gallery,
    "corpus": _of_the_corpus,
    "diffusers": _of_diffusers,
}


def made(cls: Callable[[], nn.Module], site: Any) -> Any:
    """A processor that can be mounted, None where there is none: then sdpa runs in its place, and nothing fails.
    ``site`` is for the values that its ``__init__`` asks for."""
    from onediff_pack.processors import Processor
    from onediff_pack.processors.authored.make import CannotLoad, make

    try:
        processor = make("it", cls, "", "it.py", site=site) if inspect.isclass(cls) else cls()
    except CannotLoad:
        return None
    return processor if isinstance(processor, Processor) else None


class Through(Exception):
    """The block has run: what follows it in the model takes as long again, and is the same with every processor."""

    def __init__(self, output: Any):
        self.output = torch.cat([one.flatten() for one in ([output] if torch.is_tensor(output) else output)])


class Run:
    """One family with one block patched."""

    def __init__(self, name: str):
        import families
        from onediff_pack.host.example_inputs import find_reach
        from onediff_pack.processors import find_sites, select_sites

        self.family = families.FAMILIES[name]()
        self.patcher = self.family.patcher()
        self.block = self.patcher.model.diffusion_model.get_submodule(BLOCKS[name])
        self.sites = select_sites(find_sites(self.patcher.model.diffusion_model), "all", BLOCKS[name])
        self.find_reach = find_reach(self.patcher)
        self.is_unet = name != "Flux"

    def check(self, processor: nn.Module) -> list[Any]:
        from onediff_pack.checks.attached import check_attached
        from onediff_pack.processors.authored.instances import at_site

        places = [(site, at_site(processor, site)) for site in self.sites]
        return check_attached(places, torch.float32, torch.device("cpu"), find_reach=self.find_reach)

    def patched(self, processor: Any) -> Any:
        """A clone with the processor in the block, as the node attaches it."""
        from onediff_pack.patching.wrappers import attach
        from onediff_pack.processors.attention_patch import AttentionPatch

        clone = self.patcher.clone()
        attach(clone, AttentionPatch(self.sites, processor, lambda options: None))
        return clone

    def fits(self, processor: Any) -> bool:
        from onediff_pack.processors.attention_patch import not_patchable_reason

        return all(not_patchable_reason(site, processor) is None for site in self.sites)

    def step(self, patcher: Any, batch: int, height: int, width: int, tokens: int) -> torch.Tensor:
        """What the block gives in a step."""
        import families

        def stop(module: nn.Module, args: tuple, output: Any) -> None:
            raise Through(output)

        hook = self.block.register_forward_hook(stop)
        try:
            self.family.step(patcher, families.Call(height, width, batch, tokens))
        except Through as through:
            return through.output
        finally:
            hook.remove()
        raise AssertionError("the model did not call the block")

    def with_mask(self, patcher: Any, form: tuple[int, bool]) -> torch.Tensor:
        """One step in which a node hands every site of the block a mask of this form, in a batch of 2."""

        def hand(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
            if self.is_unet:
                context = kwargs.get("context")
                queries = args[0].shape[1]
                keys, name = queries if context is None else context.shape[1], "mask"
            else:
                queries = keys = kwargs["img"].shape[1] + kwargs["txt"].shape[1]
                name = "attn_mask"
            batch = 2
            shape = {2: (queries, keys), 3: (batch, queries, keys), 4: (batch, 1, queries, keys)}[form[0]]
            mask = torch.ones(shape, dtype=torch.bool) if form[1] else torch.zeros(shape)
            return args, {**kwargs, name: mask}

        hooks = [s.module.register_forward_pre_hook(hand, with_kwargs=True, prepend=True) for s in self.sites]
        try:
            return self.step(patcher, *ORDINARY[1])
        finally:
            for hook in hooks:
                hook.remove()


def finished(run: Callable[[], torch.Tensor]) -> str:
    """ "" where a run gives a picture, else what went wrong."""
    try:
        return "" if run().isfinite().all() else "NaN or Inf"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


@pytest.fixture(scope="module")
def runs():
    known = functools.cache(Run)
    yield known
    known.cache_clear()


@pytest.fixture(autouse=True)
def without_hazards(monkeypatch):
    """They are no errors (test_hazards.py), and capturing each would take most of the time."""
    from onediff_pack.checks import processor

    monkeypatch.setattr(processor, "MOUNTED_LAYERS", ("weights", "probe"))


#: The others take another minute and a half: see ``long``.
ORDINARY_RUN = (("SD 1.5", "corpus"), ("Flux", "corpus"))

#: The gallery's sites are as wide as those of the small SD 1.5; SDXL differs in widths alone. No class of diffusers
#: fits Flux, whose blocks have no attention module.
LOOKED_AT = [
    pytest.param(name, source, marks=() if (name, source) in ORDINARY_RUN else pytest.mark.long)
    for name in BLOCKS
    for source in SOURCES
    if not (name == "SDXL" and "gallery" in source) and (name, source) != ("Flux", "diffusers")
]


@pytest.mark.parametrize(("name", "source"), LOOKED_AT)
def test_an_error_is_what_an_ordinary_run_meets(name, source, runs):
    run, wrong, looked_at = runs(name), [], 0
    for title, cls in SOURCES[source]():
        processor = made(cls, run.sites[0])
        if processor is None or not run.fits(processor):
            continue
        looked_at += 1
        findings = run.check(processor)
        errors = [finding for finding in findings if finding.severity == "error"]
        patched = run.patched(processor)
        failed = "; ".join(filter(None, (finished(functools.partial(run.step, patched, *call)) for call in ORDINARY)))
        if not failed and {finding.rule for finding in errors} - WRONG_PICTURE - HARMS_OTHERS:
            wrong.append(f"{title} runs to a finished picture, and is called an error: {errors[0]}")
        if failed and not errors:
            wrong.append(f"{title} fails ({failed}), and is not called an error: {[str(f) for f in findings]}")
        if not failed and not errors:
            for form in ((2, False), (3, True), (4, True)):
                said = finished(functools.partial(run.with_mask, patched, form))
                if said:
                    wrong.append(f"{title} fails with a mask of {form}: {said}; {[str(f) for f in findings]}")
    assert not wrong, "\n".join(wrong)
    assert looked_at >= (2 if name == "Flux" and "gallery" not in source else 10), "there are some that fit"


def test_calls_that_it_fails_in_are_sdpas_and_counted(runs):
    from onediff_pack.processors import get_processor
    from onediff_pack.processors.elsewhere import given_up_at

    class OneFormOfMask(nn.Module):
        def forward(self, q, k, v, heads, mask=None):
            if mask is not None and mask.ndim == 3:
                raise ValueError("no")
            return get_processor("sdpa")(q, k, v, heads, mask) * 2

    run = runs("SD 1.5")
    processor = made(OneFormOfMask, run.sites[0])
    (finding,) = run.check(processor)
    assert finding.severity == "warning" and "mask (batch, queries, keys)" in finding.what
    plain, patched = run.patched(get_processor("sdpa")), run.patched(processor)
    modules = [site.module for site in run.sites]
    before = given_up_at(modules)
    torch.testing.assert_close(run.with_mask(patched, (3, False)), run.with_mask(plain, (3, False)))
    assert given_up_at(modules) - before == len(run.sites)
    assert not torch.allclose(run.with_mask(patched, (4, False)), run.with_mask(plain, (4, False)))
    assert given_up_at(modules) - before == len(run.sites), "others are its own"
