"""A model of which only a part fits on the device, loaded so by ComfyUI's ModelPatcher, runs compiled: with the same
graphs as fully loaded, with its LoRAs, and with nothing left on its layers."""

from __future__ import annotations

import pytest
import sessions
import torch
from dynamic_vram import DynamicVram
from passthrough import without_inductor

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")
pytestmark = pytest.mark.usefixtures("host")

CPU = torch.device("cpu")
ALL = 1e9  # bytes of weights on the device: more than the models have


@pytest.fixture(scope="module")
def inductor():
    with without_inductor() as passthrough:
        yield passthrough


@pytest.fixture(params=["unet", "flux"])
def patcher(request):
    import models

    with torch.inference_mode():  # as ComfyUI loads models
        patcher = getattr(models, f"{request.param}_patcher")()
    load(patcher, ALL)
    return patcher


def compiled_clone(patcher, resolve=True):
    from onediff_pack.host.weights import resolve_weights

    return sessions.compiled_clone(patcher, resolve_weights=resolve_weights if resolve else None)


def load(patcher, memory: float) -> None:
    """Loads the model anew, ``memory`` bytes of it onto the device."""
    with torch.inference_mode():
        patcher.detach()
        patcher.partially_load(CPU, memory)


def unload(patcher) -> None:
    with torch.inference_mode():
        patcher.detach()


def with_lora(patcher, strength: float):
    """The model with a LoRA on every matrix."""
    patched, generator = patcher.clone(), torch.Generator().manual_seed(5)
    weights = {n: w for n, w in patched.model_state_dict().items() if n.endswith(".weight") and w.ndim == 2}
    changes = {n: ("diff", (0.1 * torch.randn(w.shape, generator=generator),)) for n, w in weights.items()}
    patched.add_patches(changes, strength)
    return patched


def sample(session, clone, steps=3):
    from models import step

    return session.sampling(lambda: [step(clone) for _ in range(steps)])[-1]


def layers_that_cast(patcher) -> list[str]:
    return [n for n, m in patcher.model.named_modules() if hasattr(m, "prev_comfy_cast_weights")]


def state_of(patcher) -> dict:
    """What ComfyUI left on the layers: flags, functions and weights, by identity."""
    return {
        name: {**{k: id(v) for k, v in m.__dict__.items()}, **{k: id(v) for k, v in m._parameters.items()}}
        for name, m in patcher.model.named_modules()
    }


def equal(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_partly_loaded_model_uses_the_graphs_of_the_fully_loaded_one(patcher, inductor):
    from models import step

    clone, session, record = compiled_clone(patcher)
    plain = step(patcher)
    equal(sample(session, clone), plain)
    assert not record["compile"]["weights"]
    graphs = inductor.graphs

    half = patcher.model_size() / 2
    for strength in (None, 1.0, -0.5, None):
        changed = clone if strength is None else with_lora(clone, strength)
        load(changed, half)
        assert layers_that_cast(changed)
        expected = step(patcher if strength is None else with_lora(patcher, strength))
        before, runs = state_of(changed), inductor.runs
        equal(sample(session, changed), expected)
        assert torch.allclose(expected, plain, rtol=1e-4, atol=1e-5) == (strength is None)
        assert inductor.runs > runs
        assert state_of(changed) == before
        assert record["state"] == "compiled"
        assert "partly loaded: the weights of" in record["compile"]["weights"]
        unload(changed)

    load(clone, ALL)
    assert not layers_that_cast(clone)
    equal(sample(session, clone), plain)
    assert record["compile"]["weights"] is None
    assert inductor.graphs == graphs
    assert record["compile"]["recompiles"] == []


def test_a_model_that_is_partly_unloaded_while_it_samples_goes_on_compiled(patcher, inductor):
    from models import step

    clone, session, record = compiled_clone(patcher)
    lora = with_lora(clone, 1.0)
    load(lora, ALL)
    expected = step(lora)

    def unloads_in_the_middle():
        results = [step(lora) for _ in range(3)]
        graphs = inductor.graphs
        with torch.inference_mode():
            lora.partially_unload(CPU, patcher.model_size() / 2)
        assert layers_that_cast(lora)
        results += [step(lora) for _ in range(2)]
        assert inductor.graphs == graphs
        return results

    for result in session.sampling(unloads_in_the_middle):
        equal(result, expected)
    assert record["state"] == "compiled"


def test_weights_are_in_memory_only_while_their_block_runs(patcher, inductor, monkeypatch):
    """The most that is made at once is what one block needs."""
    import weakref

    from onediff_pack.host import weights

    clone, session, _record = compiled_clone(patcher)
    lora = with_lora(clone, 1.0)
    load(lora, 1)
    made: list[weakref.ref[torch.Tensor]] = []
    most = 0
    cast = weights._weights

    def noted(layer, device, dtype):
        nonlocal most
        weight, bias = cast(layer, device, dtype)
        if weight.data_ptr() != layer.weight.data_ptr():
            made.append(weakref.ref(weight))
        most = max(most, sum(ref() is not None for ref in made))
        return weight, bias

    sample(session, lora, 2)
    monkeypatch.setattr(weights, "_weights", noted)
    sample(session, lora, 1)
    assert len(made) > most > 0
    assert all(ref() is None for ref in made)


def test_a_host_that_resolves_no_weights_has_such_blocks_run_uncompiled(patcher, inductor):
    from models import step

    clone, session, record = compiled_clone(patcher, resolve=False)
    lora = with_lora(clone, 1.0)
    load(lora, patcher.model_size() / 2)
    equal(sample(session, lora), step(lora.clone()))
    reasons = {r["reason"] for r in record["compile"]["regions_uncompiled"]}
    assert reasons == {"its weights are patched while it runs, because the model is only partly loaded."}


def test_layers_in_dynamic_vram_use_the_graphs_of_others(patcher, inductor):
    """As ComfyUI marks layers whose memory the comfy-aimdo library manages; on a CPU it copies such weights."""
    from models import step

    clone, session, record = compiled_clone(patcher)
    plain = step(patcher)
    sample(session, clone)
    graphs = inductor.graphs
    layers = [m for m in patcher.model.modules() if hasattr(m, "comfy_cast_weights") and m.weight is not None]
    for layer in layers:
        layer._v, layer.comfy_cast_weights = (None, 0, 0), True
    before = state_of(patcher)
    equal(sample(session, clone), plain)
    assert state_of(patcher) == before
    assert (inductor.graphs, record["state"]) == (graphs, "compiled")


@pytest.mark.parametrize("takes_module", [False, True])
def test_what_was_brought_into_dynamic_vram_is_let_go_of_in_either_form_of_the_host(monkeypatch, takes_module):
    """ComfyUI's function takes the layers; since 0.33 the module that they are parts of, and the layers."""
    import comfy.ops
    from onediff_pack.host.weights import resolve_weights

    vram = DynamicVram(monkeypatch, takes_module)
    layers = [comfy.ops.disable_weight_init.Linear(4, 4, bias=False) for _ in range(2)]
    for layer in layers:
        torch.nn.init.ones_(layer.weight)
        vram.put(layer, layer.weight.data)
    vram.signatures = dict.fromkeys(vram.signatures, 2)  # others needed the room
    with resolve_weights(layers, CPU, None) as weights:
        assert [float(weight.detach().sum()) for weight, _ in weights] == [16.0, 16.0]
        assert (vram.brought, vram.cleaned) == (layers, [])
    assert (vram.cleaned, vram.pinned) == (layers, [])


def test_weights_in_dynamic_vram_are_used_as_they_are_there(patcher, inductor, monkeypatch):
    """Without ComfyUI's way to each of them, which takes longer than the layer; patches were applied as they came."""
    from models import step

    clone, session, record = compiled_clone(patcher)
    session.measuring.by_turns = False  # the stand-in knows no steps that run uncompiled to be timed
    plain = sample(session, clone)
    blocks = [block for region in session.model.regions for block in region.module.modules()]
    names = {module: name for name, module in patcher.model.named_modules()}
    layers = [b for b in blocks if hasattr(b, "comfy_cast_weights") and b.weight is not None]
    changed = patcher.clone()
    changed.add_patches({f"{names[layer]}.weight": ("diff", (0.5 * layer.weight,)) for layer in layers})
    load(changed, ALL)
    expected = step(changed)
    with torch.inference_mode():  # as ComfyUI brings them there
        patched = {layer: layer.weight.clone() for layer in layers}
    load(patcher, ALL)

    vram = DynamicVram(monkeypatch)
    for layer, weight in patched.items():
        vram.put(layer, weight)
    before, graphs = state_of(patcher), inductor.graphs
    equal(sample(session, clone), expected)
    assert not torch.allclose(expected, plain, rtol=1e-2)
    assert (vram.brought, vram.pinned, state_of(patcher)) == ([], [], before)
    assert (inductor.graphs, record["state"]) == (graphs, "compiled")
    count = len(session.blocks)
    assert (
        record["compile"]["weights"] == f"in dynamic VRAM: the weights of {count} blocks are made ready block by block."
    )

    vram.signatures = dict.fromkeys(vram.signatures, 2)  # others needed the room
    sample(session, clone, 1)
    assert set(vram.brought) == set(layers)
    assert (vram.pinned, state_of(patcher)) == ([], before)


def test_patched_weights_in_another_dtype_cost_one_variant_for_good(inductor):
    """A model stored in float16 that computes in float32: a LoRA's result must not be rounded to float16."""
    import models

    with torch.inference_mode():
        patcher = models.flux_patcher(dtype=torch.float16, computes_in=torch.float32)
    clone, session, record = compiled_clone(patcher)
    load(patcher, ALL)
    equal(sample(session, clone), models.step(patcher))
    kinds = inductor.graphs
    for strength in (1.0, -0.5):
        lora = with_lora(clone, strength)
        for part in (0.3, 0.7):
            load(lora, part * patcher.model_size())
            assert layers_that_cast(lora)
            equal(sample(session, lora), models.step(with_lora(patcher, strength)))
            assert record["state"] == "compiled"
        unload(lora)
    graphs = inductor.graphs
    assert graphs <= 2 * kinds
    load(clone, ALL)
    equal(sample(session, clone), models.step(patcher))
    assert inductor.graphs == graphs
