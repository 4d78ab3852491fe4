"""Regions executed by OneFlow itself: how many, with what results, and what happens to weights and sizes."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from onediff_pack.compilers import BACKENDS, BackendUnavailable
from onediff_pack.compilers.backends.oneflow import libraries
from onediff_pack.compilers.blocks.shared_graph import SharedGraph
from onediff_pack.patching.wrappers import attach
from onediff_pack.processors import find_sites, get_processor, processor_names
from onediff_pack.processors.attention_patch import AttentionPatch
from onediff_pack.proving.proof import Proof
from sessions import compiled_clone, known, using
from torch import nn

try:
    why = libraries.why_absent() or (libraries.load_oneflow() and None)
except BackendUnavailable as error:
    why = error.reason
if why:
    pytest.skip(why, allow_module_level=True)
pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")

families = importlib.import_module("families")
models = importlib.import_module("models")
tensors = importlib.import_module("onediff_pack.compilers.backends.oneflow.tensors")
Call = families.Call

pytestmark = pytest.mark.usefixtures("host", "proven")

TOLERANCE = 1e-4

#: How far weights are moved: enough for one weight to show in the whole model's result.
CHANGE = 20.0

#: Unlike in structure: residual and transformer blocks; joint attention, rotary embeddings in several forms, RMS norms,
#: modulation; 2D and 3D convolutions.
FAMILIES = ("SD 1.5", "SDXL", "SD 3", "Flux", "Z-Image", "Qwen-Image", "Wan 2.1", "LTXV")


@pytest.fixture
def proven():
    with using(known(oneflow=Proof(True, "is tested.", 0.0))):  # runs are counted by graph
        yield


@pytest.fixture
def executed(monkeypatch):
    """How often OneFlow itself executed a graph."""
    import oneflow

    counted = SimpleNamespace(count=0)
    call = oneflow.nn.Graph.__call__

    def count(graph, *args, **kwargs):
        counted.count += 1
        return call(graph, *args, **kwargs)

    monkeypatch.setattr(oneflow.nn.Graph, "__call__", count)
    return counted


def relative(compiled, uncompiled):
    return ((compiled - uncompiled).norm() / uncompiled.norm()).item()


class Sampled:
    """A model with a session on it that uses OneFlow."""

    def __init__(self, patcher, step, **settings):
        self.step = step
        self.patcher = patcher
        self.clone, self.session, self.record = compiled_clone(patcher, backend="oneflow", **settings)

    @property
    def runs(self):
        """How often OneFlow ran a region."""
        return sum(graph.runs for graph in self.session.memory.graphs)

    def sample(self, steps=3):
        """Samples; how often OneFlow ran, and the largest difference to the model without a session."""
        uncompiled, before = self.step(self.patcher), self.runs
        assert uncompiled.isfinite().all()
        assert uncompiled.std() > 0
        results = self.session.sampling(lambda: [self.step(self.clone) for _ in range(steps)])
        return self.runs - before, max(relative(result, uncompiled) for result in results)


def sampled_family(name, **settings):
    family = families.FAMILIES[name]()
    return Sampled(family.patcher(), lambda patcher: family.step(patcher, Call()), **settings)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_region_runs_in_oneflow(name, executed):
    sampled = sampled_family(name)
    runs, difference = sampled.sample()
    compiled = sampled.record["compile"]
    assert compiled["regions_uncompiled"] == []
    assert compiled["regions_compiled"] == compiled["regions"] > 0
    # The first step watches; the second compares each region's first run; the third uses the results.
    assert runs == executed.count == sampled.record["compile"]["runs"] == 2 * compiled["regions"]
    assert sampled.record["backend"]["used"] == "oneflow"
    assert sampled.record["parity"]["relative"] <= TOLERANCE  # the worst region's, by itself
    assert difference <= TOLERANCE


def test_an_operator_that_oneflow_lacks_is_named_with_its_line():
    sampled = sampled_family("HiDream")
    runs, difference = sampled.sample()
    assert (runs, difference) == (0, 0)
    uncompiled = sampled.record["compile"]["regions_uncompiled"]
    assert uncompiled
    for region in uncompiled:
        assert re.fullmatch(r"it uses aten\.topk \(model\.py:\d+\), which OneFlow cannot do here: .*", region["reason"])


def sampled_with(processor: str) -> Sampled:
    """With a processor at every site of a UNet, each compiled for itself."""
    patcher = models.unet_patcher()
    sites = find_sites(patcher.model.diffusion_model)
    attach(patcher, AttentionPatch(sites, get_processor(processor), lambda options: None))
    return Sampled(patcher, models.step, scope="attention")


@pytest.mark.parametrize("processor", [name for name in processor_names() if not get_processor(name).as_operator])
def test_scope_attention_compiles_every_processor_that_a_graph_can_hold(processor):
    sampled = sampled_with(processor)
    runs, difference = sampled.sample()
    assert sampled.record["parity"]["relative"] <= TOLERANCE
    assert sampled.record["compile"]["regions_uncompiled"] == []
    assert runs == 2 * sampled.record["compile"]["regions"]
    assert difference <= TOLERANCE


@pytest.mark.parametrize("processor", [name for name in processor_names() if get_processor(name).as_operator])
def test_one_that_is_an_operator_runs_uncompiled_and_says_so(processor):
    """OneFlow's graphs hold none of torch's operators that this pack makes."""
    sampled = sampled_with(processor)
    runs, difference = sampled.sample()
    assert (runs, difference) == (0, 0)
    uncompiled = sampled.record["compile"]["regions_uncompiled"]
    assert len(uncompiled) == sampled.record["compile"]["regions"] > 0
    for region in uncompiled:
        assert "which OneFlow cannot do here" in region["reason"]


# Weights.


def weight_of(patcher):
    """One that no norm follows inside its block."""
    layers = dict(patcher.model.diffusion_model.named_modules())
    name = [name for name in layers if name.endswith(("out_layers.3", "double_blocks.0.img_mlp.0"))][-1]
    return name, layers[name]


@pytest.mark.parametrize("model", ["unet", "flux"])
def test_a_weight_changed_or_replaced_takes_effect_without_compiling(model):
    sampled = Sampled(getattr(models, f"{model}_patcher")(), models.step)
    sampled.sample()
    graphs = sampled.record["compile"]["graphs"]
    plain = models.step(sampled.patcher)
    _, layer = weight_of(sampled.patcher)
    original = layer.weight
    kept = original.clone()

    with torch.no_grad():
        original += CHANGE * torch.randn_like(original)
    assert relative(models.step(sampled.patcher), plain) > 1e-3, "the change is too small to see"
    runs, difference = sampled.sample()
    assert runs > 0
    assert difference <= TOLERANCE
    with torch.no_grad():
        original.copy_(kept)

    layer.weight = nn.Parameter(kept - CHANGE * torch.randn_like(kept), requires_grad=False)
    assert relative(models.step(sampled.patcher), plain) > 1e-3, "the change is too small to see"
    assert sampled.sample()[1] <= TOLERANCE

    layer.weight = original
    assert relative(models.step(sampled.patcher), plain) == 0
    assert sampled.sample()[1] <= TOLERANCE
    assert sampled.record["compile"]["graphs"] == graphs


@pytest.mark.parametrize("model", ["unet", "flux"])
def test_a_lora_its_strength_and_its_removal_take_effect(model):
    """As ComfyUI applies it, through the ModelPatcher that loads the model."""
    sampled = Sampled(getattr(models, f"{model}_patcher")(), models.step)
    sampled.patcher.patch_model()  # as it is before the first sampling
    sampled.patcher.unpatch_model()
    plain = models.step(sampled.patcher)
    sampled.sample()
    graphs = sampled.record["compile"]["graphs"]
    name, layer = weight_of(sampled.patcher)
    key = f"diffusion_model.{name}.weight"
    changes = []
    for strength in (1.0, 0.5, None):
        patcher = sampled.patcher.clone()
        if strength is not None:
            torch.manual_seed(5)
            patcher.add_patches({key: ("diff", (CHANGE * torch.randn_like(layer.weight),))}, strength)
        patcher.patch_model()
        changes.append(relative(models.step(sampled.patcher), plain))
        runs, difference = sampled.sample()
        assert runs > 0
        assert difference <= TOLERANCE
        patcher.unpatch_model()
        assert sampled.record["compile"]["graphs"] == graphs
    assert changes[0] > changes[1] > 1e-3
    assert changes[2] == 0


# Sizes.


def test_another_size_is_another_graph_and_the_record_says_so():
    sampled = Sampled(models.unet_patcher(), models.step)
    sampled.sample()
    before = sampled.record["compile"]["graphs"]
    sampled.step = lambda patcher: models.step(patcher, size=24, tokens=40)
    runs, difference = sampled.sample()
    assert runs > 0
    assert difference <= TOLERANCE
    compiled = sampled.record["compile"]
    assert compiled["regions_uncompiled"] == []
    assert compiled["graphs"] > before
    assert any("OneFlow's graphs are of one size" in str(recompile) for recompile in compiled["recompiles"])
    sampled.step = models.step
    assert sampled.sample()[1] <= TOLERANCE
    assert sampled.record["compile"]["graphs"] == compiled["graphs"], "the first size's graphs are kept"


# One module.


def in_oneflow(module, *inputs):
    graph = SharedGraph(type(module).forward, type(module).__name__)
    compiled = BACKENDS["oneflow"].compile(module, graph, "fast start")
    with torch.inference_mode():
        result = compiled(*(value.clone() for value in inputs))
    assert graph.runs == 1
    return result


class Transposes(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2), x + 1


class Writes(nn.Module):
    def forward(self, x):
        x += 1
        return x * 2


class Masks(nn.Module):
    def forward(self, q, mask):
        return nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=mask)


class Causal(nn.Module):
    def forward(self, q):
        return nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)


class Pieces(nn.Module):
    def forward(self, x):
        first, second = x[:, 1:].chunk(2, dim=-1)
        padded = nn.functional.pad(second, (1, 2, 0, 1), value=3.0)
        return torch.stack((first, second), dim=1)[:, -1], padded, x.repeat(2, 1, 3), x.mean((0, -1), keepdim=True)


@pytest.mark.parametrize(
    ("module", "shapes"),
    [
        (Transposes(), [(2, 20, 8)]),
        (Masks(), [(2, 2, 20, 8), (20, 20)]),
        (Causal(), [(2, 2, 20, 8)]),
        (Pieces(), [(2, 20, 8)]),
        (nn.GroupNorm(4, 8), [(2, 8, 5, 6)]),
        (nn.Conv2d(8, 4, 3, padding=1, stride=2, groups=2), [(2, 8, 9, 9)]),
        (nn.GELU("tanh"), [(2, 20, 8)]),
        (nn.RMSNorm(8), [(2, 20, 8)]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_results_equal_torchs_also_in_their_layout(module, shapes):
    torch.manual_seed(0)
    module.requires_grad_(False)
    inputs = [torch.randn(shape) for shape in shapes]
    expected = module(*inputs)
    result = in_oneflow(module, *inputs)
    many = isinstance(expected, tuple)
    for ours, theirs in zip(result if many else (result,), expected if many else (expected,), strict=True):
        assert ours.shape == theirs.shape
        assert ours.stride() == theirs.stride()
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_what_a_module_writes_into_its_input_is_there_afterwards():
    x = torch.zeros(2, 20, 8)
    compiled = BACKENDS["oneflow"].compile(Writes(), SharedGraph(Writes.forward, "Writes"), "fast start")
    with torch.inference_mode():
        assert (compiled(x) == 2).all()
    assert (x == 1).all()


def test_tensors_share_their_memory():
    ours = torch.zeros(4)
    theirs = tensors.to_oneflow(ours)
    ours[1] = 5
    assert theirs.numpy().tolist() == [0, 5, 0, 0]
    assert tensors.to_torch(theirs, (1,)).data_ptr() == ours.data_ptr()


MANY_RUNS = """
import conftest, torch
from onediff_pack.compilers import BACKENDS
from onediff_pack.compilers.blocks.shared_graph import SharedGraph

class Doubles(torch.nn.Module):
    def forward(self, x):
        return x * 2

class Halves(torch.nn.Module):
    def forward(self, x):
        return torch.tanh(x) + x / 2

def compiled(kind):
    return BACKENDS["oneflow"].compile(kind(), SharedGraph(kind.forward, kind.__name__), "fast start")

x, blocks = torch.ones(2, 20, 64), [compiled(Doubles), compiled(Halves)]
with torch.inference_mode():
    for _ in range(2000):
        for block in blocks:
            x = block(x)
print("all ran")
"""


def test_graphs_faster_than_their_start_break_neither_the_process_nor_its_end():
    """Without ``launching`` most such processes crash or hang."""
    command, folder = [sys.executable, "-c", MANY_RUNS], Path(__file__).resolve().parents[1]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert "all ran" in ended.stdout, ended.stderr
    assert ended.returncode == 0, ended.stderr


def test_the_proof_in_a_child_process_succeeds():
    from onediff_pack.compilers.choice.child import prove_in_child

    proof = prove_in_child("oneflow", torch.device("cpu"))
    assert proof.available, proof.reason
    assert proof.seconds <= 5, "beyond the start-up"
    assert proof.speed > 0
