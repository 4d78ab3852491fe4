"""Patches on a ModelPatcher: which code runs, and that nothing is left behind."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from onediff_pack.patching.wrappers import APPLY_MODEL, KEY, OUTER_SAMPLE, attach, attached, detach
from onediff_pack.processors import KernelProcessor, ModuleProcessor, find_sites, get_processor, select_sites
from onediff_pack.processors.attention_patch import AttentionPatch
from onediff_pack.processors.elsewhere import CallKind
from onediff_pack.processors.overriding import kernel_forward, kernel_override

pytestmark = pytest.mark.usefixtures("host")


class Counting(KernelProcessor):
    """Counts its calls and computes nothing of use: zeros, so that its effect shows."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, q, k, v, heads, mask=None, skip_reshape=False, *rest):
        self.calls += 1
        return torch.zeros(q.shape[0], q.shape[2], q.shape[1] * q.shape[3]) if skip_reshape else torch.zeros_like(q)


@pytest.fixture(params=["unet", "flux"])
def patcher(request):
    import models

    return getattr(models, f"{request.param}_patcher")()


def patched_with(patcher, processor, kind="all", blocks="", superseded=None):
    sites = select_sites(find_sites(patcher.model.diffusion_model), kind, blocks)
    clone = patcher.clone()
    seen = []
    attach(clone, AttentionPatch(sites, processor, seen.append, superseded))
    return clone, sites, seen


def instance_forwards(patcher):
    return [path for path, module in patcher.model.named_modules() if "forward" in module.__dict__]


def test_a_patch_acts_on_the_clone_only_and_leaves_nothing(patcher):
    from models import step

    plain = step(patcher)
    processor = Counting()
    clone, sites, seen = patched_with(patcher, processor)
    changed = step(clone)
    assert processor.calls == len(sites)
    assert not torch.equal(changed, plain)
    assert len(seen) == 1
    assert instance_forwards(patcher) == []
    assert torch.equal(step(patcher), plain)


def test_sdpa_keeps_the_result(patcher):
    from models import step

    clone, _, _ = patched_with(patcher, get_processor("sdpa"))
    torch.testing.assert_close(step(clone), step(patcher), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["sdpa", "sliced", "reference"])
def test_queries_that_another_node_cuts_into_tiles_are_computed_as_by_the_host(name):
    """HyperTile gives the queries another batch than keys and values; ComfyUI's attention goes by the queries'."""
    import models
    from changes import CHANGES, Setup, conditioning, relative, sample, strengthen

    patcher = models.unet_patcher()
    strengthen(patcher.model)
    pictures = []
    for model in (patcher, patcher, patched_with(patcher, get_processor(name))[0]):
        setup = Setup(model, conditioning(1), conditioning(2))
        if pictures:
            CHANGES["HyperTile"][0](setup)
        pictures.append(sample(setup))
        setup.restore()
    plain, expected, patched = pictures
    assert relative(expected, plain) > 1e-3, "it must cut, or this test tells nothing"
    assert relative(patched, expected) < 1e-5


def test_a_patch_comes_off_after_an_error(patcher):
    from models import step

    class Broken(KernelProcessor):
        def forward(self, *args, **kwargs):
            raise RuntimeError("on purpose")

    clone, _, _ = patched_with(patcher, Broken())
    with pytest.raises(RuntimeError, match="on purpose"):
        step(clone)
    assert instance_forwards(patcher) == []


def test_filters_decide_where_it_runs():
    from models import step, unet_patcher

    patcher, processor = unet_patcher(), Counting()
    clone, _, _ = patched_with(patcher, processor, "cross", "middle_block")
    step(clone)
    assert processor.calls == 1


def test_the_later_of_two_patches_counts():
    from models import step, unet_patcher

    patcher, first, second = unet_patcher(), Counting(), Counting()
    clone, _, _ = patched_with(patcher, first)
    clone, _, _ = patched_with(clone, second, "all", "middle_block")
    step(clone)
    assert (first.calls, second.calls) == (12, 2)


def test_an_override_of_another_node_stays_in_effect_when_it_came_later(patcher):
    from models import step

    calls = []

    def foreign(func, *args, **kwargs):
        calls.append(1)
        return func(*args, **kwargs)

    processor = Counting()
    clone, sites, seen = patched_with(patcher, processor)
    clone.model_options["transformer_options"]["optimized_attention_override"] = foreign
    step(clone)
    assert (len(calls), processor.calls) == (len(sites), 0)
    assert seen[0]["optimized_attention_override"] is foreign


def test_an_override_that_was_there_before_gives_way():
    from models import flux_patcher, step

    def foreign(func, *args, **kwargs):
        raise AssertionError("superseded")

    patcher, processor = flux_patcher(), Counting()
    patcher.model_options["transformer_options"]["optimized_attention_override"] = foreign
    clone, sites, _ = patched_with(patcher, processor, superseded=foreign)
    step(clone)
    assert processor.calls == len(sites)


def test_reference_needs_projections():
    from models import flux_patcher, step, unet_patcher

    clone, _sites, _ = patched_with(unet_patcher(), get_processor("reference"))
    assert isinstance(clone.get_wrappers(APPLY_MODEL, KEY)[0].processor, ModuleProcessor)
    torch.testing.assert_close(step(clone), step(unet_patcher()), rtol=1e-4, atol=1e-5)
    with pytest.raises(TypeError, match=r"double_blocks\.0: DoubleStreamBlock does not compute"):
        patched_with(flux_patcher(), get_processor("reference"))


class Wrapper:
    def __init__(self, order):
        self.order = order


class Sampled(Wrapper):
    def sampling(self, run):
        return run()


def test_wrappers_lie_in_their_order_and_the_later_of_a_class_counts_unless_all_do():
    """Patches, of which there may be several, are outermost."""
    from comfy.model_patcher import ModelPatcher

    model = ModelPatcher(torch.nn.Linear(1, 1), torch.device("cpu"), torch.device("cpu"))
    first, second, earlier, later = Wrapper(0), Wrapper(0), Sampled(1), Sampled(1)
    for wrapper in (earlier, first, later, second):
        attach(model, wrapper)
    assert model.get_wrappers(APPLY_MODEL, KEY) == [first, second, later]
    assert model.get_wrappers(OUTER_SAMPLE, KEY) == [later.sampling]
    assert attached(model, Sampled) == [later]
    clone = model.clone()
    detach(clone, Sampled)
    assert clone.get_wrappers(APPLY_MODEL, KEY) == [first, second]
    assert clone.get_wrappers(OUTER_SAMPLE, KEY) == []
    assert attached(clone, Sampled) == []
    assert attached(model, Sampled) == [later], "the other model keeps its own"


def test_wrapper_types_are_the_hosts():
    from comfy.patcher_extension import WrappersMP

    assert (APPLY_MODEL, OUTER_SAMPLE) == (WrappersMP.APPLY_MODEL, WrappersMP.OUTER_SAMPLE)


def test_a_processor_that_nobody_uses_any_more_is_let_go():
    processor = Counting()
    weak = weakref.ref(processor)
    forwards = [kernel_forward(Counting.forward, kernel_override(processor)) for _ in range(2)]
    assert forwards[0] is forwards[1], "one function a processor, or each would be compiled anew"
    del processor, forwards
    gc.collect()
    assert weak() is None


@pytest.mark.parametrize("level", [KernelProcessor, ModuleProcessor])
def test_what_no_graph_can_hold_shares_its_graphs_however_often_it_is_attached(level):
    import models

    mine: Any = type("Mine", (level,), {"as_operator": True})
    processor, patcher = mine(), models.unet_patcher()
    sites = select_sites(find_sites(patcher.model.diffusion_model), "all", "middle_block")
    patches = [AttentionPatch(sites, processor, print) for _ in range(2)]
    first, again = (functions(patch) for patch in patches)
    assert first == again
    processor.left = (CallKind(mask=(4, True)),)  # seen when another model was checked
    assert patches[0].instances.computes(sites[0]).left == processor.left
    assert not set(first) & set(functions(AttentionPatch(sites, mine(), print)))


def functions(patch: Any) -> list[Any]:
    return [forward.__func__ for _, forward in patch.forwards]


def test_a_class_is_not_asked_for_its_name_where_it_is_attached():
    import models

    class Meta(type):
        def __getattribute__(cls, name):
            if name in ("__qualname__", "__module__") and asked:
                raise SystemExit(name)
            return super().__getattribute__(name)

    class Mine(KernelProcessor, metaclass=Meta):
        as_operator = True

    processor, patcher, asked = Mine(), models.unet_patcher(), []
    asked.append(True)
    sites = select_sites(find_sites(patcher.model.diffusion_model), "all", "middle_block")
    assert AttentionPatch(sites, processor, print).forwards
