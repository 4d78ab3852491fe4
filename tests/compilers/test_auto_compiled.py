"""OneDiff Compile behind ``auto``: it decides afterwards, around the kernel that was chosen; nothing is compiled twice.
On ComfyUI's own blocks and attention; Dynamo captures, and nothing is compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from changes import Setup, conditioning, relative, sample, strengthen
from onediff_pack.patching.wrappers import KEY, OUTER_SAMPLE, attach
from onediff_pack.processors import find_sites, get_processor, register_processor, registry
from onediff_pack.processors.choosing.auto_patch import AutoPatch
from onediff_pack.processors.choosing.candidates import candidates
from onediff_pack.processors.choosing.kept import Choices
from onediff_pack.processors.choosing.measured_patch import MeasuredPatch
from onediff_pack.processors.kernels.kernel import Kernel
from passthrough import Passthrough, without_inductor
from sessions import compiled_clone

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")
pytestmark = pytest.mark.usefixtures("host")

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def inductor(host: Any) -> Iterator[Passthrough]:
    with without_inductor() as inductor:
        yield inductor


@pytest.fixture
def sub_quadratic(monkeypatch: pytest.MonkeyPatch) -> Callable:
    """ComfyUI as it starts on a CPU without flags, with an attention that takes longer than others."""
    import time

    import comfy.ldm.flux.math
    import comfy.ldm.modules.attention as attention

    def attention_late(*args: Any, **kwargs: Any) -> torch.Tensor:
        time.sleep(0.01)
        return attention.attention_sub_quad.__wrapped__(*args, **kwargs)

    late = attention.wrap_attn(attention_late)
    for name in ("optimized_attention", "optimized_attention_masked"):
        monkeypatch.setattr(attention, name, late)
    monkeypatch.setattr(comfy.ldm.flux.math, "optimized_attention", late)
    return late


def patched(model: Any, name: str, **settings: Any) -> tuple[Any, dict[str, Any]]:
    """A clone with this processor at all sites, as the node puts it there; and what the node is told."""
    told: dict[str, Any] = {}
    clone, diffusion = model.clone(), model.model.diffusion_model
    more: dict[str, Any] = {"model": diffusion, "told": told.update, "choices": Choices()}
    sites = find_sites(diffusion)
    if name == "auto":
        offered = lambda: candidates(torch.device("cpu"), torch.float32, "exact")  # noqa: E731
        patch: MeasuredPatch = AutoPatch(sites, lambda options: None, quality="exact", candidates=offered, **more)
    else:
        patch = MeasuredPatch(sites, get_processor(name), lambda options: None, name=name, **more)
    attach(clone, patch)
    return clone, told


def compiled(model: Any, opaque: Callable) -> tuple[Any, Any]:
    clone, session, record = compiled_clone(model, opaque_attention=opaque)
    clone.add_wrapper_with_key(OUTER_SAMPLE, KEY, session.sampling)
    return clone, record


def sampled(model: Any) -> torch.Tensor:
    return sample(Setup(model, conditioning(1), conditioning(2)))


@pytest.mark.parametrize("model", ["unet", "flux", pytest.param("sdxl", marks=pytest.mark.long)])
def test_it_compiles_around_the_choice_and_no_more_than_around_that_kernel_by_name(
    model: str, inductor: Passthrough, sub_quadratic: Callable
) -> None:
    import models

    graphs = {}
    for name in ("sdpa", "auto"):
        patcher = getattr(models, f"{model}_patcher")()
        strengthen(patcher.model)
        plain = sampled(patcher)
        chosen, told = patched(patcher, name)
        clone, record = compiled(chosen, sub_quadratic)
        before = inductor.graphs
        assert relative(sampled(clone), plain) <= TOLERANCE
        graphs[name] = inductor.graphs - before
        compile_ = record["compile"]
        assert (compile_["regions_uncompiled"], compile_["operators"], record["state"]) == ([], [], "compiled")
        assert relative(sampled(clone), plain) <= TOLERANCE
        assert inductor.graphs - before == graphs[name], "another picture compiles nothing"
        if name == "auto":
            assert told["auto"]["processors"] == ["sdpa"]
            speed = record["speed"]
            assert (speed["computed"], speed["patch_speedup"] > 1) == (True, True)
            assert speed["total_speedup"] == pytest.approx(
                speed["patch_speedup"] * (speed["speedup"] if speed["verdict"] else 1), rel=0.01
            )
            assert {one["processor"] for one in record["patches"]["sites"]} == {"sdpa"}
    assert (graphs["sdpa"] > 0, graphs["auto"]) == (True, 0), "what was compiled for that kernel serves"


def test_a_kernel_that_no_graph_can_hold_is_an_operator_in_compiled_blocks(
    inductor: Passthrough, sub_quadratic: Callable
) -> None:
    """As those of packages are; one that takes no mask and few head sizes goes by its limits there, too."""
    import models

    calls = []

    class Package(Kernel):
        as_operator = True
        rank = -1

        def attend(self, q, k, v, mask, scale):
            calls.append(float(q.sum()))  # no graph can hold that
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=scale)

    register_processor("package")(Package)
    try:
        patcher = models.unet_patcher()
        strengthen(patcher.model)
        plain = sampled(patcher)
        chosen, _ = patched(patcher, "package")
        clone, record = compiled(chosen, sub_quadratic)
        assert relative(sampled(clone), plain) <= TOLERANCE
        assert (record["compile"]["regions_uncompiled"], record["state"]) == ([], "compiled")
        calls.clear()
        assert relative(sampled(clone), plain) <= TOLERANCE
        assert len(calls) >= 6 * 14, "it computes in compiled blocks"
    finally:
        registry._CLASSES.pop("package"), registry._INSTANCES.pop("package", None)


@pytest.mark.parametrize(
    ("model", "name"),
    [  # each kernel, and each way of giving attention its heads
        ("unet", "sliced"),
        ("flux", "sdpa-math"),
        pytest.param("flux", "sliced", marks=pytest.mark.long),
        pytest.param("sdxl", "sliced", marks=pytest.mark.long),
    ],
)
def test_exact_kernels_give_the_same_picture_compiled(
    model: str, name: str, inductor: Passthrough, sub_quadratic: Callable
) -> None:
    import models

    patcher = getattr(models, f"{model}_patcher")()
    strengthen(patcher.model)
    chosen, _ = patched(patcher, name)
    clone, record = compiled(chosen, sub_quadratic)
    assert relative(sampled(clone), sampled(patcher)) <= TOLERANCE
    assert (record["compile"]["regions_uncompiled"], record["state"]) == ([], "compiled")
