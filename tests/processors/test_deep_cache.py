"""DeepCache: which blocks run in which step, and what takes the place of the others."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.usefixtures("host")


def deep_cache(patcher, **settings) -> tuple[Any, list[dict[str, Any]]]:
    from onediff_pack.patching.skipping.deep_cache import CacheSettings, DeepCache
    from onediff_pack.patching.wrappers import attach

    told: list[dict[str, Any]] = []
    clone = patcher.clone()
    attach(clone, DeepCache(CacheSettings(**settings), told.append))
    return clone, told


def sample(clone, sigmas, **options) -> list[torch.Tensor]:
    """The model's results at these noise levels, in one sampling."""
    from models import step
    from onediff_pack.patching.wrappers import KEY

    (sampling,) = clone.get_wrappers("outer_sample", KEY)
    return sampling(lambda: [step(clone, sigma=sigma, seed=number, **options) for number, sigma in enumerate(sigmas)])


@contextmanager
def counted(unet):
    """How often each of the UNet's blocks is called."""
    calls: Counter[str] = Counter()
    blocks = {"middle": unet.middle_block}
    blocks |= {
        f"{kind} {at}": one for kind in ("input", "output") for at, one in enumerate(getattr(unet, f"{kind}_blocks"))
    }
    hooks = [
        block[0].register_forward_hook(lambda *_, name=name: calls.update([name])) for name, block in blocks.items()
    ]
    yield calls
    for hook in hooks:
        hook.remove()


FIVE = [3.0, 2.5, 2.0, 1.5, 1.0]


@pytest.mark.parametrize("interval", [1, 2, 3])
def test_the_first_of_each_few_steps_is_full(interval):
    from models import deep_unet_patcher

    clone, told = deep_cache(deep_unet_patcher(), interval=interval)
    with counted(clone.model.diffusion_model) as calls:
        sample(clone, FIVE)
        sample(clone, FIVE)
    full = len(range(0, 5, interval))
    always = {f"input {at}" for at in range(3)} | {f"output {at}" for at in range(9, 12)}
    measured = 1 if interval > 1 else 0  # a step in full once more
    assert {name for name, count in calls.items() if count == 10 + measured} >= always
    assert {calls[name] for name in calls.keys() - always} == {2 * full + measured}
    assert len(calls) == 25
    assert [(one["by"], one["steps"], one["of"]) for one in told] == [("DeepCache", 5 - full, 5)] * 2


@pytest.mark.parametrize("model", ["unet_patcher", "deep_unet_patcher", "sdxl_patcher"])
@pytest.mark.parametrize(("layer", "block"), [(0, 0), (0, 1), (1, 0), (12, 12)])
def test_the_last_deep_result_takes_the_place_of_the_next(model, layer, block):
    """Computed by hand: a full call whose last deep block gives what it gave in the step before."""
    import models
    from models import step

    patcher = getattr(models, model)()
    unet = patcher.model.diffusion_model
    clone, told = deep_cache(patcher, interval=2, layer=layer, block=block)
    results = sample(clone, FIVE[:2])
    torch.testing.assert_close(results[0], step(patcher, sigma=FIVE[0], seed=0))

    depth = min(sum(unet.num_res_blocks[:layer]) + block + 1, len(unet.output_blocks) - 2)
    last, kept = unet.output_blocks[len(unet.output_blocks) - depth - 2][-1], []
    hook = last.register_forward_hook(lambda module, args, result: kept.append(result) or kept[0].clone())
    step(patcher, sigma=FIVE[0], seed=0)
    by_hand = step(patcher, sigma=FIVE[1], seed=1)
    hook.remove()
    torch.testing.assert_close(results[1], by_hand)
    exact = step(patcher, sigma=FIVE[1], seed=1)
    assert told[0]["off"] == pytest.approx(float((by_hand - exact).norm() / exact.norm()), rel=1e-3)
    assert told[0]["off"] > 0
    assert not unet.__dict__.keys() & {"input_blocks", "middle_block", "output_blocks"}, "the model is as it was"


def test_a_controlnet_and_freeus_writing_into_what_they_are_given_change_nothing_kept():
    from models import deep_unet_patcher, step

    def control() -> dict[str, list[torch.Tensor]]:
        return {"input": [torch.ones(2, 32, 16, 16)] * 12, "middle": [torch.ones(2, 128, 2, 2)], "output": []}

    def write(h, hsp, options):
        h[:, :4] *= 2.0
        return h, hsp

    patcher = deep_unet_patcher()
    patcher.set_model_output_block_patch(write)
    clone, _ = deep_cache(patcher, interval=3)
    for result in sample(clone, [1.0, 0.9, 0.8], control=control()):
        assert torch.isfinite(result).all()
    from onediff_pack.patching.wrappers import KEY

    (sampling,) = clone.get_wrappers("outer_sample", KEY)
    same = [1.0, 1.0 - 1e-7, 1.0 - 2e-7]
    first, second, third = sampling(lambda: [step(clone, sigma=sigma, control=control()) for sigma in same])
    torch.testing.assert_close(second, first, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(third, first, atol=1e-4, rtol=1e-4)


def test_steps_outside_of_the_range_are_full_and_the_first_within_too():
    from models import deep_unet_patcher

    patcher = deep_unet_patcher()
    timestep = patcher.model.model_sampling.timestep
    sigmas = [10.0, 8.0, 5.0, 3.0, 2.0, 1.0, 0.5]
    begin, end = (1000 - float(timestep(torch.tensor(sigma))) for sigma in (8.0, 2.0))
    clone, told = deep_cache(patcher, interval=2, start=int(begin), end=int(end) + 1)
    with counted(patcher.model.diffusion_model) as calls:
        sample(clone, sigmas)
    assert (told[0]["steps"], told[0]["of"]) == (2, 7), "of 8, 5, 3 and 2 the second and the fourth"
    assert calls["middle"] == 5 + 1


def test_other_prompts_sizes_and_attention_are_kept_apart():
    from models import deep_unet_patcher, step
    from onediff_pack.patching.wrappers import KEY

    patcher = deep_unet_patcher()
    clone, _ = deep_cache(patcher, interval=2)
    (sampling,) = clone.get_wrappers("outer_sample", KEY)
    perturbed = {"patches_replace": {"attn1": {("middle", 0): lambda q, k, v, options: v}}}
    kinds: list[dict[str, Any]] = [{"uuids": [1]}, {"uuids": [2], "seed": 5}, {"uuids": [1], **perturbed}, {"size": 8}]

    def all_kinds(sigma):
        return [step(clone, sigma=sigma, **{"seed": 1, **kind}) for kind in kinds]

    first, second = sampling(lambda: [all_kinds(1.0), all_kinds(1.0 - 1e-7)])
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-4)


def test_a_model_without_such_blocks_is_computed_in_full():
    from models import flux_patcher, step

    patcher = flux_patcher()
    clone, told = deep_cache(patcher, interval=3)
    results = sample(clone, [0.9, 0.8, 0.7])
    torch.testing.assert_close(results[2], step(patcher, sigma=0.7, seed=2))
    assert told == []


def test_an_error_leaves_the_model_as_it_was():
    from models import deep_unet_patcher

    patcher = deep_unet_patcher()
    unet = patcher.model.diffusion_model
    clone, _ = deep_cache(patcher, interval=2)

    def fail(*args):
        raise RuntimeError("out of luck")

    hook = unet.output_blocks[11][0].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of luck"):
        sample(clone, FIVE)
    hook.remove()
    assert isinstance(unet.input_blocks, torch.nn.ModuleList)
    assert not unet.__dict__.keys() & {"input_blocks", "middle_block", "output_blocks"}
