"""The probe and the weights' rules: what a finding says, what is left as it was, what is looked at twice, how long it
takes."""

from __future__ import annotations

import gc
import itertools
import logging
import re
import time
import weakref
from dataclasses import replace
from functools import partial
from typing import Any

import gallery
import pytest
import torch
from onediff_pack.checks import attached, check_model, check_processor, check_weights
from onediff_pack.checks import processor as processor_check
from onediff_pack.checks.probing import cases
from onediff_pack.processors import find_sites, get_processor
from onediff_pack.processors.attention_patch import AttentionPatch, not_patchable_reason
from torch import nn

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")
pytestmark = pytest.mark.usefixtures("host", "one_thread")

SDPA = get_processor("sdpa")
ALL_LAYERS = processor_check.MOUNTED_LAYERS


@pytest.fixture(autouse=True)
def without_hazards(monkeypatch):
    """These tests are about calling a processor, not about capturing it."""
    monkeypatch.setattr(processor_check, "MOUNTED_LAYERS", ("weights", "probe"))


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Kernel(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q, k, v, heads, mask, **kwargs)


class Counting(Kernel):
    """Counts calls in a list, of which the check's copies have their own, and in one that they share."""

    calls: list[int] = []  # noqa: RUF012 - shared on purpose
    steps: torch.Tensor

    def __init__(self):
        super().__init__()
        self.own: list[int] = []
        self.register_buffer("steps", torch.zeros(1))

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        self.own.append(1)
        self.calls.append(1)
        self.steps += 1
        return super().forward(q, k, v, heads, mask, **kwargs)


class LongPromptsInHalf(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        if k.shape[1] > 100 and k.dtype == torch.float16:
            raise ValueError("no more than 100 tokens in float16")
        return SDPA(q, k, v, heads, mask, **kwargs)


class Flat(nn.Module):
    def forward(self, q, k, v, heads, mask=None):
        return SDPA(q, k, v, heads, mask)[0]


def test_pairwise_cover_meets_every_pair():
    axes = ((1, 2), (77, 154), ("a", "b", "c"), tuple(range(7)))
    chosen = cases.pairwise(axes)
    assert len(chosen) <= 30 < 2 * 2 * 3 * 7
    for (a, first), (b, second) in itertools.combinations(enumerate(axes), 2):
        assert {(case[a], case[b]) for case in chosen} == set(itertools.product(first, second))


def test_masks_are_named_in_few_words():
    bool_masks = [mask for mask in cases.MASKS if mask.boolean]
    assert cases.in_words(cases.MASKS) == "any mask"
    assert cases.in_words(bool_masks) == "any bool mask"
    assert cases.in_words(bool_masks[:2]) == "a bool mask (queries, keys) or (batch, queries, keys)"
    assert cases.in_words([*bool_masks, cases.Mask(2, False)]) == "any bool mask or an additive mask (queries, keys)"


def test_a_finding_says_which_inputs_it_takes():
    (finding,) = check_processor(LongPromptsInHalf(), gallery.site())
    assert (finding.severity, finding.what) == ("warning", "fails with float16 inputs")
    assert "This model computes in float32" in finding.why
    assert finding.why.endswith("It raises ValueError: no more than 100 tokens in float16.")
    assert [kind.dtype for kind in finding.served] == [torch.float16]
    line = int(finding.where.rpartition(":")[2])
    with open(__file__) as source:
        assert "raise ValueError" in source.readlines()[line - 1]


def test_what_a_model_computes_in_is_an_error():
    (finding,) = check_processor(LongPromptsInHalf(), gallery.site(), torch.float16, thorough=False)
    assert (finding.rule, finding.severity) == ("raises", "error")
    assert finding.what == "fails with 154 prompt tokens" and not finding.served
    assert "4 of 8 calls that were tried fail" in finding.why and "x.shape[1]" in finding.fix


def test_the_pairwise_cover_finds_it_too():
    (finding,) = check_processor(LongPromptsInHalf(), gallery.site(), thorough=False)
    assert (finding.rule, finding.what) == ("raises", "fails with float16 inputs")


def test_a_check_leaves_everything_as_it_was():
    processor = Counting().train()
    place = gallery.site()
    before = {name: tensor.clone() for name, tensor in place.module.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    check_processor(processor, place)
    assert torch.equal(torch.rand(1), expected), "random numbers go on as if nothing had run"
    assert Counting.calls and not processor.own and processor.steps.item() == 0
    assert processor.training and not place.module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in place.module.state_dict().items())
    assert "forward" not in place.module.__dict__


def test_numbers_that_fakes_do_not_have_are_no_error_of_the_probe():
    class ReadsNumbers(nn.Module):
        def forward(self, q, k, v, heads, mask=None, **kwargs):
            gain = 1.0 if q.abs().max().item() > 0 else 2.0
            return SDPA(q * gain, k, v, heads, mask, **kwargs)

    rules = {finding.rule for finding in check_processor(ReadsNumbers(), gallery.site())}
    assert not rules & {"raises", "raises-on-numbers", "wrong-shape"}


@pytest.mark.parametrize("name", ["unet", "flux"])
@pytest.mark.parametrize("processor", ["sdpa", "reference"])
def test_nothing_is_found_in_built_in_processors(name, processor):
    import models

    model = getattr(models, f"{name}_patcher")().model.diffusion_model
    ours = get_processor(processor)
    places = [(site, ours) for site in find_sites(model) if not_patchable_reason(site, ours) is None]
    assert [str(finding) for finding in check_model(model, len(places), attached=places).findings] == []


def test_one_finding_stands_for_all_sites():
    import models

    model = models.unet_patcher().model.diffusion_model
    wrong = Flat()
    sites = find_sites(model)
    report = check_model(model, len(sites), attached=[(site, wrong) for site in sites])
    (finding,) = report.findings
    assert finding.rule == "wrong-shape"
    assert finding.path == f"{sites[0].path}.processor"
    assert finding.why.endswith(f"The same at {len(sites) - 1} more sites.")
    assert all(report.under(site.path) == [finding] for site in sites)


def test_a_result_is_used_again_until_the_processor_changes_and_keeps_nothing_alive(monkeypatch):
    looked = []

    def look(*args, **kwargs):
        looked.append(args[1].kind)
        return check_processor(*args, **kwargs)

    monkeypatch.setattr(processor_check, "MOUNTED_LAYERS", ALL_LAYERS)
    monkeypatch.setattr(attached, "check_processor", look)
    processor, place = Counting(), gallery.site()
    others = [(replace(place, path=f"blocks.{n}.attn2"), processor) for n in range(5)]
    cpu = torch.device("cpu")
    attached.check_attached(others, torch.float32, cpu)
    attached.check_attached(others, torch.float32, cpu)
    assert len(looked) == 1
    processor.steps.fill_(float("nan"))
    assert "not-finite-weights" in {f.rule for f in attached.check_attached(others, torch.float32, cpu)}
    assert len(looked) == 2
    gone: list[Any] = [weakref.ref(processor), weakref.ref(place.module)]
    del processor, place, others
    looked.clear()
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def test_a_block_with_a_wrong_processor_stays_uncompiled_and_the_others_do_not():
    import models
    from onediff_pack.compilers import Host, Session, Settings
    from onediff_pack.processors import adapt
    from onediff_pack.status import Record
    from sessions import FakeBackend, known

    model = models.unet_patcher().model.diffusion_model
    sites = find_sites(model)[:1]
    record = Record("7", "OneDiffCompile")
    settings, proofs = Settings(backend="counting"), known(FakeBackend())
    session = Session(settings, record, Host(lambda: None, "test"), torch.device("cpu"), proofs=proofs)
    session.prepare(model, [AttentionPatch(sites, adapt(Flat()), lambda options: None)])
    refused = [block.path for block in session.blocks if block.reason]
    assert len(refused) == 1 and sites[0].path.startswith(refused[0])
    assert len(session.blocks) > 5
    assert record["check"]["errors"] == 1


def test_a_file_is_held_against_the_class():
    processor = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 8))
    state = processor.state_dict()
    assert check_weights(processor, state) == ()
    wrong = {
        "0.weight": torch.ones(4, 8),
        "0.bias": state["0.bias"],
        "1.weight": state["1.weight"],
        "2.bias": torch.ones(1),
    }
    found = {finding.rule: finding for finding in check_weights(processor, wrong)}
    assert set(found) == {"missing-weights", "unexpected-weights", "other-shape-weights"}
    assert "1.bias" in found["missing-weights"].what
    assert "2.bias" in found["unexpected-weights"].what
    assert "0.weight (4, 4) ≠ (4, 8)" in found["other-shape-weights"].what


SECONDS_FOR_SDXL, SECONDS_FOR_ONE = 3.0, 0.5

SDXL = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "context_dim": 2048,
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
    "num_head_channels": 64,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "legacy": False,
    "dtype": torch.float16,
    "device": "meta",
}


def _processor_time(run) -> float:
    """Seconds of this process: other work on the machine does not count."""
    start = time.process_time()
    run()
    return time.process_time() - start


def test_it_takes_little_time():
    """All layers but the hazards, which capture graphs. Twice what is allowed would be a failure of this test, so that
    a busy machine is none."""
    import comfy.ldm.modules.diffusionmodules.openaimodel as unet
    import comfy.ops

    check_processor(Kernel(), gallery.site())  # imports
    assert _processor_time(lambda: check_processor(Kernel(), gallery.site())) < 2 * SECONDS_FOR_ONE

    model = unet.UNetModel(**SDXL, operations=comfy.ops.disable_weight_init)
    sites = find_sites(model)
    assert len(sites) == 140
    for processor in (get_processor("reference"), Kernel()):
        check = partial(check_model, model, 140, attached=[(site, processor) for site in sites], dtype=torch.float16)
        assert _processor_time(check) < 2 * SECONDS_FOR_SDXL
        assert _processor_time(check) < SECONDS_FOR_SDXL / 3, "the second time is known already"


def test_pytorch_logs_no_tracebacks_of_the_errors_that_a_finding_tells():
    """The console would be full of them: one for each combination of inputs."""

    class Crossed(nn.Module):
        def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
            return attn.to_k(hidden_states)

    records = []
    handler: Any = logging.Handler()
    handler.emit = records.append
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    logger.addHandler(handler)
    try:
        found = gallery.check(Crossed())
        assert [f.rule for f in found if f.severity == "error"] == ["raises"]
        assert not records
        logger.error("later messages are let through")
        assert len(records) == 1
    finally:
        logger.removeHandler(handler)


class Unmerged(nn.Module):
    """Right attention of (batch, heads, tokens, head_dim) that is given back with its heads, one way or another."""

    given_back = "out"

    def forward(self, q, k, v, heads, mask=None):
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        out = nn.functional.scaled_dot_product_attention(q, k, v)
        if self.given_back == "out":
            return out
        return out.transpose(1, 2) if self.given_back == "out.transpose(1, 2)" else out.flatten(0, 1)


def wrong_shapes(processor):
    found = check_processor(processor, gallery.site(), thorough=False)
    return [finding for finding in found if finding.rule == "wrong-shape"]


@pytest.mark.parametrize("given_back", ["out", "out.transpose(1, 2)", "out.flatten(0, 1)"])
def test_a_result_with_its_heads_says_what_merges_them(given_back):
    """Reshaping, which makes the shape right too, would mix heads and tokens."""
    processor = type("Mine", (Unmerged,), {"given_back": given_back})()
    (finding,) = wrong_shapes(processor)
    assert finding.rule == "wrong-shape"
    found = re.fullmatch(r"Merge the heads: (.+)\.", finding.fix)
    assert found
    q, k, v = (torch.randn(2, 6, 32) for _ in range(3))
    given = processor(q, k, v, 4)
    mended = eval(found[1], {}, {"out": given, "heads": 4})
    torch.testing.assert_close(mended, SDPA(q, k, v, 4))


def test_another_shape_is_not_said_to_have_heads():
    class Half(nn.Module):
        def forward(self, q, k, v, heads, mask=None):
            return q[..., ::2]

    (finding,) = wrong_shapes(Half())
    assert finding.fix == "Bring the result into the shape that the original returns."
