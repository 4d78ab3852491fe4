"""ComfyUI's own attention function where no graph can hold it, as on a CPU by default: it is an operator in compiled
blocks. On ComfyUI's own blocks and with its own functions; Dynamo captures, and nothing is compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from changes import CHANGES, Setup, conditioning, relative, sample, strengthen
from onediff_pack.patching.wrappers import KEY, OUTER_SAMPLE
from passthrough import Passthrough, without_inductor
from sessions import compiled_clone

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")
pytestmark = pytest.mark.usefixtures("host")

#: Largest ‖difference‖ of equal pictures.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def inductor(host: Any) -> Iterator[Passthrough]:
    with without_inductor() as inductor:
        yield inductor


@pytest.fixture
def sub_quadratic(monkeypatch: pytest.MonkeyPatch) -> Callable:
    """ComfyUI as it starts on a CPU without flags."""
    import comfy.ldm.flux.math
    import comfy.ldm.modules.attention as attention

    for name in ("optimized_attention", "optimized_attention_masked"):
        monkeypatch.setattr(attention, name, attention.attention_sub_quad)
    monkeypatch.setattr(comfy.ldm.flux.math, "optimized_attention", attention.attention_sub_quad)
    return attention.attention_sub_quad


def sampled(model: Any, change: Callable[[Setup], None] = lambda setup: None) -> torch.Tensor:
    setup = Setup(model, conditioning(1), conditioning(2))
    change(setup)
    result = sample(setup)
    setup.restore()
    return result


def patched(sites: str, processor: str) -> Callable[[Setup], None]:
    """A change that puts a processor on sites of a kind, as Patch Attention Processors does."""
    from onediff_pack.patching.wrappers import attach
    from onediff_pack.processors import find_sites, get_processor, select_sites
    from onediff_pack.processors.attention_patch import AttentionPatch

    def change(setup: Setup) -> None:
        chosen = select_sites(find_sites(setup.model.model.diffusion_model), sites, "")
        setup.model = setup.model.clone()
        attach(setup.model, AttentionPatch(chosen, get_processor(processor), lambda options: None))

    return change


@pytest.mark.parametrize("model", ["unet", "flux"])
def test_all_blocks_are_compiled_and_another_nodes_override_takes_effect(
    model: str, inductor: Passthrough, sub_quadratic: Callable
) -> None:
    """Without, with, and again without another node's override: at most one more graph a kind of block, none again."""
    import models

    patcher = getattr(models, f"{model}_patcher")()
    strengthen(patcher.model)
    compiled, session, record = compiled_clone(patcher, opaque_attention=sub_quadratic)
    compiled.add_wrapper_with_key(OUTER_SAMPLE, KEY, session.sampling)
    override, before = CHANGES["attention override"][0], inductor.graphs
    plain, other = sampled(patcher), sampled(patcher, override)
    assert relative(other, plain) > 10 * TOLERANCE, "the change must show, or this test tells nothing"

    assert relative(sampled(compiled), plain) <= TOLERANCE
    compile_ = record["compile"]
    assert (compile_["regions_compiled"], compile_["regions_uncompiled"]) == (compile_["regions"], [])
    assert (compile_["graph_breaks"], record["state"]) == ([], "compiled")
    kinds = len({block.signature for block in session.blocks if block.called})
    first = inductor.graphs - before
    assert first <= kinds
    (operator,) = compile_["operators"]
    assert operator["what"] == "ComfyUI's attention"
    assert operator["where"] == "comfy.ldm.modules.attention:attention_sub_quad"
    assert operator["blocks"] == (7 if model == "unet" else compile_["regions"])

    assert relative(sampled(compiled, override), other) <= TOLERANCE
    with_override = inductor.graphs
    assert with_override - before <= first + kinds
    assert relative(sampled(compiled), plain) <= TOLERANCE
    assert inductor.graphs == with_override


@pytest.mark.parametrize(
    ("sites", "processor"),
    [
        ("all", "sdpa"),
        ("cross", "reference"),
        pytest.param("all", "reference", marks=pytest.mark.long),
        pytest.param("cross", "sdpa", marks=pytest.mark.long),
    ],
)
def test_processors_take_its_place_where_they_are(
    sites: str, processor: str, inductor: Passthrough, sub_quadratic: Callable
) -> None:
    import models

    patcher = models.unet_patcher()
    strengthen(patcher.model)
    setup = Setup(patcher, [], [])
    patched(sites, processor)(setup)
    compiled, session, record = compiled_clone(setup.model, opaque_attention=sub_quadratic)
    compiled.add_wrapper_with_key(OUTER_SAMPLE, KEY, session.sampling)
    assert relative(sampled(compiled), sampled(setup.model)) <= TOLERANCE
    compile_ = record["compile"]
    assert (compile_["regions_compiled"], compile_["regions_uncompiled"]) == (compile_["regions"], [])
    assert [operator["what"] for operator in compile_["operators"]] == (
        [] if sites == "all" else ["ComfyUI's attention"]
    )


def test_what_blocks_gain_around_it_is_timed(
    inductor: Passthrough, sub_quadratic: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways compute the same from other inputs too: attention runs anew, and is not played back."""
    import models
    from onediff_pack.compilers.blocks.parity import clone_inputs
    from onediff_pack.compilers.blocks.tensors import tensors_of
    from onediff_pack.compilers.session.one_block import gain_timing

    found: list[float] = []

    def pairs(compiled: Callable, uncompiled: Callable, inputs: Any, device: Any, *until: Any) -> Any:
        for factor in (1.0, 1.5):
            changed = clone_inputs(inputs)
            for tensor in tensors_of(changed):
                if tensor.is_floating_point():
                    tensor *= factor
            found.append(relative(compiled(clone_inputs(changed)), uncompiled(changed)))
        return [(1.3, 1.0)] * 3

    monkeypatch.setattr(gain_timing, "time_pairs", pairs)
    patcher = models.unet_patcher()
    strengthen(patcher.model)
    plain = sampled(patcher)
    compiled, session, record = compiled_clone(patcher, opaque_attention=sub_quadratic, plans=True, keep_faster=True)
    compiled.add_wrapper_with_key(OUTER_SAMPLE, KEY, session.sampling)
    assert relative(sampled(compiled), plain) <= TOLERANCE
    assert record["compile"]["operators"][0]["blocks"] == 7
    assert len(found) == 4, "a block of each of both classes"
    assert max(found) <= TOLERANCE
