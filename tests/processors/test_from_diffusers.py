"""Every attention processor class of the installed diffusers: what is said of it, and what happens when it is run."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from onediff_pack.checks import check_processor
from onediff_pack.processors import Processor, Site
from onediff_pack.processors.authored.make import CannotLoad, make
from onediff_pack.processors.sources import diffusers_classes as from_diffusers
from onediff_pack.processors.sources.unet_fit import judged
from torch import nn

pytestmark = pytest.mark.usefixtures("host")

FILE = from_diffusers.source_file()
if FILE is None:
    pytest.skip("diffusers is not installed", allow_module_level=True)

FOLDER = FILE.parents[1]
VERDICTS = judged(FILE)

#: What every class that may be there says; a new one of diffusers is judged all the same.
EXPECTED = {
    "AttnProcessor": "",
    "AttnProcessor2_0": "",
    "SlicedAttnProcessor": "needs slice_size",
    "AttnAddedKVProcessor2_0": "needs attn.add_k_proj, attn.add_v_proj",
    "JointAttnProcessor2_0": "returns picture and text",
    "FusedAttnProcessor2_0": "needs attn.to_kv, attn.to_qkv",
    "IPAdapterAttnProcessor2_0": "trained weights of its own",
    "CustomDiffusionAttnProcessor": "trained weights of its own",
    "AttnProcessorNPU": "torch_npu is not installed",
    "PAGIdentitySelfAttnProcessor2_0": "takes the batch for parts",
    "SanaLinearAttnProcessor2_0": "does not use attention_mask",
    "LuminaAttnProcessor2_0": "leaves the output projection to its caller",
}

BATCHES = (2, 1)
TOKENS, KEYS, HEADS = 16, 7, 4


def attention(kind: str) -> nn.Module:
    from comfy.ldm.modules.attention import CrossAttention

    torch.manual_seed(0)
    module = CrossAttention(32, 48 if kind == "cross" else None, heads=HEADS, dim_head=8, operations=nn)
    return module.eval().requires_grad_(False)


def outcome(processor: nn.Module) -> str:
    """What happens when a processor computes attention with and without masks: "" when it is the host's result."""
    if not isinstance(processor, Processor):
        return "cannot be called"
    for kind in ("self", "cross"):
        host = attention(kind)
        keys = KEYS if kind == "cross" else TOKENS
        for batch in BATCHES:
            x = torch.randn(batch, TOKENS, 32)
            context = torch.randn(batch, keys, 48) if kind == "cross" else None
            masks = (None, torch.rand(TOKENS, keys) > 0.3, torch.randn(batch, TOKENS, keys))
            for mask in (*masks, torch.randn(batch, HEADS, TOKENS, keys)):
                expected = host(x, context, mask=mask)
                try:
                    result = processor(host, x, context, mask)
                except Exception as error:
                    return f"raises {type(error).__name__}: {error}"
                if not isinstance(result, torch.Tensor) or result.shape != expected.shape:
                    return "returns something else"
                if not torch.allclose(result, expected, atol=1e-5):
                    return f"differs by {(result - expected).abs().max():.1e} ({kind}, batch {batch})"
    return ""


def made(file: Path, name: str) -> nn.Module:
    module = importlib.import_module(".".join(("diffusers", *file.relative_to(FOLDER).with_suffix("").parts)))
    return make(name, getattr(module, name), str(file), file.name)


@pytest.mark.parametrize("name", VERDICTS)
def test_verdict_and_outcome_agree(name):
    """No false "fine": what is offered computes the host's attention. No false alarm: the rest does not."""
    reasons = VERDICTS[name]
    try:
        processor = made(FILE, name)
    except CannotLoad as error:
        assert reasons, f"it is offered, and {error}"
        return
    happened = outcome(processor)
    assert bool(reasons) == bool(happened), f"said: {reasons or 'fine'}; happened: {happened or 'right result'}"
    if not reasons:
        for kind in ("self", "cross"):
            found = check_processor(processor, Site("blocks.0.attn", attention(kind), kind, True))
            assert not [str(f) for f in found if f.severity == "error"]


@pytest.mark.parametrize("name", EXPECTED)
def test_the_reason_says_why(name):
    if name not in VERDICTS:
        pytest.skip("this diffusers has no such class")
    assert EXPECTED[name] in "; ".join(VERDICTS[name])
    assert bool(EXPECTED[name]) == bool(VERDICTS[name])


def test_processors_of_other_models_and_pipelines_are_judged_by_their_file():
    """They are not offered: each is made for the attention of its own file. Nothing of theirs is in the list."""
    others = {
        (path, name)
        for path in FOLDER.rglob("*.py")
        if path != FILE and "Processor" in (text := path.read_text()) and "attn" in text
        for name in judged(path)
    }
    assert len(others) > 50
    assert set(from_diffusers.names()) == {f"diffusers/{name}" for name, reasons in VERDICTS.items() if not reasons}
    for _path, name in others:
        if name not in VERDICTS:
            with pytest.raises(CannotLoad, match="not among the processors of diffusers' UNets"):
                from_diffusers.load(f"diffusers/{name}")


def test_offered_ones_load_once_and_others_are_refused_with_the_reason():
    processor = from_diffusers.load("diffusers/AttnProcessor2_0")
    assert from_diffusers.load("diffusers/AttnProcessor2_0") is processor
    with pytest.raises(CannotLoad) as error:
        from_diffusers.load("diffusers/SlicedAttnProcessor")
    assert error.value.why == "It needs slice_size, which a name alone does not give."
    assert "diffusers/AttnProcessor2_0" in error.value.fix
    for name in ("diffusers/os", "diffusers/Attention", "diffusers/../x:Y", "diffusers/"):
        with pytest.raises(CannotLoad, match="cannot take the place"):
            from_diffusers.load(name)


def test_the_list_imports_nothing_of_diffusers():
    """In a process of its own; importing diffusers takes seconds on a cold disk."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import conftest\n"
        "from onediff_pack.processors.sources import diffusers_classes as from_diffusers\n"
        "assert 'diffusers/AttnProcessor2_0' in from_diffusers.names()\n"
        "assert not [name for name in sys.modules if name.startswith('diffusers')]\n"
    )
    subprocess.run([sys.executable, "-c", code, str(Path(__file__).parents[1])], check=True, timeout=120)


def test_without_diffusers_nothing_is_listed_and_the_reason_is_said(monkeypatch):
    monkeypatch.setattr(from_diffusers, "find_spec", lambda name: None)
    assert from_diffusers.names() == []
    with pytest.raises(CannotLoad, match=r"diffusers is not installed\. Run “pip install diffusers=="):
        from_diffusers.load("diffusers/AttnProcessor")
