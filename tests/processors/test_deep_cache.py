"""DeepCache: which blocks run in which step, and what takes the place of the others."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from types import SimpleNamespace
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
    measured = 2 if interval > 1 else 0  # the second full step of each sampling runs without the deep ones too
    assert {name for name, count in calls.items() if count == 10 + measured} >= always
    assert {calls[name] for name in calls.keys() - always} == {2 * full}
    assert len(calls) == 25
    assert [(one["by"], one["steps"], one["of"]) for one in told] == [("DeepCache", 5 - full, 5)] * 2


#: Layer and block as OneDiff counts them → the last of the output blocks that is left out.
LAST_OF_4 = {(0, 0): 1, (0, 1): 0, (1, 0): 0, (12, 12): 0}
LAST_OF_12 = {(0, 0): 9, (0, 1): 8, (1, 0): 7, (2, 1): 4, (12, 12): 0}
PLACES = [
    *(("unet_patcher", *place) for place in LAST_OF_4.items()),
    *(("deep_unet_patcher", *place) for place in LAST_OF_12.items()),
    *(("sdxl_patcher", *place) for place in LAST_OF_4.items()),
]


@pytest.mark.parametrize(("model", "place", "last"), PLACES)
def test_the_last_deep_result_takes_the_place_of_the_next(model, place, last):
    """Computed by hand: a full call whose last deep block gives what it gave in an earlier one."""
    import models
    from models import step

    patcher = getattr(models, model)()
    unet = patcher.model.diffusion_model
    clone, told = deep_cache(patcher, interval=2, layer=place[0], block=place[1])
    results = sample(clone, FIVE[:3])

    kept: list[torch.Tensor] = []
    hook = unet.output_blocks[last][-1].register_forward_hook(
        lambda module, args, result: kept.append(result) or kept[0].clone()
    )
    by_hand = [step(patcher, sigma=FIVE[at], seed=at) for at in range(3)]
    hook.remove()
    exact = [step(patcher, sigma=FIVE[at], seed=at) for at in range(3)]
    for result, expected in zip(results, (exact[0], by_hand[1], exact[2]), strict=True):
        torch.testing.assert_close(result, expected)
    assert told[0]["off"] == pytest.approx(float((by_hand[2] - exact[2]).norm() / exact[2].norm()), rel=1e-3)
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
    assert calls["middle"] == 5


def test_other_prompts_sizes_and_attention_are_kept_apart():
    from models import deep_unet_patcher, step
    from onediff_pack.patching.wrappers import KEY

    patcher = deep_unet_patcher()
    clone, _ = deep_cache(patcher, interval=2)
    (sampling,) = clone.get_wrappers("outer_sample", KEY)
    perturbed = {"patches_replace": {"attn1": {("middle", 0): lambda q, k, v, options: v}}}
    frames = [{"context_window": SimpleNamespace(index_list=list(range(at, at + 4)))} for at in (0, 3)]
    kinds: list[dict[str, Any]] = [
        {"uuids": [1]},
        {"uuids": [2], "seed": 5},
        {"uuids": [1], **perturbed},
        {"uuids": [1], "size": 8},
        {"uuids": [1], "seed": 7},  # a tile
        *({"uuids": [1], "seed": 8 + at, **window} for at, window in enumerate(frames)),
    ]

    def all_kinds(sigma):
        return [step(clone, sigma=sigma, **{"seed": 1, **kind}) for kind in kinds]

    def both() -> list[list[torch.Tensor]]:
        first = all_kinds(1.0)
        kinds[-2:] = reversed(kinds[-2:])  # frames come in another order, as schedules have them
        second = all_kinds(1.0 - 1e-7)
        second[-2:] = reversed(second[-2:])
        return [first, second]

    first, second = sampling(both)
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


def test_a_node_that_leaves_the_whole_model_out_of_a_step_costs_no_run():
    """EasyCache does, also in a step that would have been full."""
    from models import deep_unet_patcher, step

    patcher = deep_unet_patcher()
    clone, told = deep_cache(patcher, interval=2)
    calls: list[int] = []

    def now_and_then(executor, x, *args, **kwargs):
        calls.append(len(calls))
        return torch.zeros_like(x) if calls[-1] == 2 else executor(x, *args, **kwargs)

    clone.add_wrapper_with_key("diffusion_model", "easycache", now_and_then)
    results = sample(clone, FIVE)
    torch.testing.assert_close(results[3], step(patcher, sigma=FIVE[3], seed=3))
    assert (told[0]["steps"], told[0]["off"]) == (1, None), "what counts its calls is called no more often"
    assert len(calls) == 5


def test_a_node_with_a_loop_of_its_own_computes_in_full():
    from models import deep_unet_patcher, step

    patcher = deep_unet_patcher()
    clone, told = deep_cache(patcher, interval=3)
    for sigma in FIVE:
        torch.testing.assert_close(step(clone, sigma=sigma), step(patcher, sigma=sigma))
    assert told == []
