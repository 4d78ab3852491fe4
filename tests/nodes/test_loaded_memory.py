"""ComfyUI's memory management has what was loaded: counts it, loads it with the model, offloads parts, casts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import loaded
import pytest
import torch
from changes import Setup, conditioning, sample
from passthrough import one_thread

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")

import models
from onediff_pack.patching.wrappers import KEY

pytestmark = pytest.mark.usefixtures("host")


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    import comfy.model_management

    with one_thread():
        yield
    comfy.model_management.unload_all_models()


@pytest.fixture
def model() -> Any:
    return models.unet_patcher()


def tensors(model: Any, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: one.to(dtype) for name, one in loaded.ip_adapter(model, loaded.plus(48)).items()}


def loaded_bytes() -> list[int]:
    import comfy.model_management

    return [one.model.loaded_size() for one in comfy.model_management.current_loaded_models]


def sampled(patched: Any) -> torch.Tensor:
    return sample(Setup(patched, conditioning(1), conditioning(2)))


def test_an_adapter_is_loaded_with_the_model_and_counted(tmp_path, model):
    given = tensors(model)
    file = loaded.opened(loaded.saved(tmp_path, given))
    patched = loaded.put(loaded.put(model, loaded.with_picture(file)), loaded.with_picture(file, loaded.picture(2)))
    assert len(patched.get_additional_models_with_key(KEY)) == 2, "of two patches"
    size = sum(one.numel() * one.element_size() for one in given.values())
    assert all(one.model_size() == size for one in patched.get_additional_models_with_key(KEY))
    sampled(patched)
    assert size in loaded_bytes()
    assert size not in [one.model_size() for one in model.get_nested_additional_models()]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_its_weights_are_cast_when_they_are_used(tmp_path, model, dtype):
    half = tensors(model, dtype)
    whole = {name: one.float() for name, one in half.items()}
    first, second = (
        models.step(loaded.put(model, loaded.with_picture(loaded.opened(loaded.saved(tmp_path, one, name)))))
        for name, one in (("half", half), ("whole", whole))
    )
    assert torch.equal(first, second)


def test_partly_loaded_it_computes_the_same(tmp_path, model):
    file = loaded.opened(loaded.saved(tmp_path, tensors(model)))
    patched = loaded.put(model, loaded.with_picture(file))
    expected = models.step(patched)
    (patch,) = patched.get_wrappers("apply_model", KEY)
    patch.adds.forget()
    file.patcher.load(torch.device("cpu"), lowvram_model_memory=int(0.7 * file.patcher.model_size()))
    assert 0 < file.patcher.loaded_size() < file.patcher.model_size()
    assert torch.equal(models.step(patched), expected)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A file with 4,000 bytes for all sites, of one of the classes below."""
    from onediff_pack.host import offered_processors
    from onediff_pack.host.loading import at_sites
    from onediff_pack.processors.sources.custom import CustomProcessors

    custom = CustomProcessors(lambda: [tmp_path])
    for module in (offered_processors, at_sites):
        monkeypatch.setattr(module, "CUSTOM", custom)

    def make(name: str) -> Any:
        (tmp_path / "mine.py").write_text(SCALED)
        metadata = {"onediff.format": "1", "onediff.processor": f"custom/mine:{name}"}
        return loaded.opened(loaded.saved(tmp_path, {"*:scale": torch.ones(1000)}, "mine", metadata))

    return make


SCALED = """
import torch
from torch import nn


def attend(q, k, v, heads):
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Kernel(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1000))

    def forward(self, q, k, v, heads):
        return attend(q, k, v, heads) * self.scale[0]


class EachSite(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1000))

    def forward(self, attn, hidden_states, encoder_hidden_states=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        return attn.to_out(attend(q, k, v, attn.heads) * self.scale[0])


class WithLayers(EachSite):
    def __init__(self, attn):
        super().__init__()
        self.layers = nn.ModuleList([attn.to_q, nn.Identity()])
"""


@pytest.mark.parametrize(("name", "instances"), [("Kernel", 1), ("EachSite", 14), ("WithLayers", 14)])
def test_a_class_of_ones_own_is_counted_and_what_sites_share_once(model, own, name, instances):
    patched = loaded.put(model, own(name))
    (patch,) = patched.get_wrappers("apply_model", KEY)
    assert len({id(one) for one in patch.instances.all}) == instances
    (counted,) = patched.get_additional_models_with_key(KEY)
    assert counted.model_size() == 4000
    sampled(patched)
    assert 4000 in loaded_bytes()


def test_layers_of_the_model_that_a_class_holds_are_not_moved_with_its_weights(model, own):
    patched = loaded.put(model, own("WithLayers"))
    (patch,) = patched.get_wrappers("apply_model", KEY)
    patch.weights.to("meta")
    assert {one.device.type for _, one in patch.weights.tensors()} == {"meta"}
    assert {one.device.type for one in model.model.diffusion_model.parameters()} == {"cpu"}


def test_a_weight_of_the_model_that_a_class_holds_is_not_moved_either():
    from onediff_pack.processors.loaded.loaded_patch import Weights

    site, own = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    own.weight = site.weight
    weights = Weights([own], frozenset({id(site.weight)}))
    weights.to("meta")
    assert (own.weight is site.weight, site.weight.device.type, own.bias.device.type) == (True, "cpu", "meta")
