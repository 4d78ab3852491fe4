"""An IP-Adapter adds to what a site's attention gives, whatever computes that; where, when and how much."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import loaded
import pytest
import torch

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")

import models
from onediff_pack.patching.wrappers import attach
from onediff_pack.processors import find_sites, get_processor
from onediff_pack.processors.attention_patch import AttentionPatch

pytestmark = pytest.mark.usefixtures("host")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    from passthrough import one_thread

    with one_thread():
        yield


@pytest.fixture
def model() -> Any:
    return models.unet_patcher()


@pytest.fixture
def file(tmp_path, model) -> Any:
    torch.manual_seed(0)
    return loaded.opened(loaded.saved(tmp_path, loaded.ip_adapter(model, loaded.standard(48))))


@pytest.fixture
def plus(tmp_path, model) -> Any:
    torch.manual_seed(1)
    return loaded.opened(loaded.saved(tmp_path, loaded.ip_adapter(model, loaded.plus(48)), "plus"))


def with_processor(model: Any, name: str, sites: str = "all") -> Any:
    clone = model.clone()
    chosen = [s for s in find_sites(clone.model.diffusion_model) if sites in ("all", s.kind)]
    attach(clone, AttentionPatch(chosen, get_processor(name), lambda options: None, name=name))
    return clone


def added(model: Any, base: Any, **options: Any) -> torch.Tensor:
    return models.step(model, **options) - models.step(base, **options)


@pytest.mark.parametrize(("strength", "weight"), [(0.0, 1.0), (1.0, 0.0)])
def test_without_strength_or_weight_it_is_as_without_the_node(model, file, strength, weight):
    patched = loaded.put(model, loaded.with_picture(file, weight=weight).with_strength(strength))
    assert torch.equal(models.step(patched), models.step(model))


def test_strength_and_weight_are_multiplied(model, file):
    one = loaded.put(model, loaded.with_picture(file, weight=0.5).with_strength(0.6))
    other = loaded.put(model, loaded.with_picture(file, weight=0.3))
    torch.testing.assert_close(models.step(one), models.step(other), atol=1e-6, rtol=1e-5)
    assert (models.step(one) - models.step(model)).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["sdpa", "reference"])
def test_an_earlier_processor_goes_on_computing(model, file, name, monkeypatch):
    """One that is a kernel, and one that takes the whole module's place."""
    calls = []
    processor = get_processor(name)
    hook = processor.register_forward_hook(lambda *_: calls.append(1))
    before = with_processor(model, name)
    patched = loaded.put(before, loaded.with_picture(file))
    result = models.step(patched)
    hook.remove()
    assert len(calls) == 14, "self and cross, at 7 blocks"
    torch.testing.assert_close(result, models.step(loaded.put(model, loaded.with_picture(file))), atol=1e-5, rtol=1e-4)


def test_a_later_patch_leaves_it_in_place(model, file):
    """Two nodes in a row add up: the second one has sites of its own, or computes what the first one adds to."""
    only = loaded.put(model, loaded.with_picture(file))
    for sites in ("self", "all"):
        after = with_processor(only, "sdpa", sites)
        torch.testing.assert_close(models.step(after), models.step(only), atol=1e-5, rtol=1e-4)


def test_two_files_add_up(model, file, plus):
    both = loaded.put(loaded.put(model, loaded.with_picture(file)), loaded.with_picture(plus, weight=0.0))
    assert torch.equal(models.step(both), models.step(loaded.put(model, loaded.with_picture(file))))
    first, second = (loaded.with_picture(one, weight=0.05) for one in (file, plus))
    alone = [added(loaded.put(model, one), model) for one in (first, second)]
    together = added(loaded.put(loaded.put(model, first), second), model)
    size = min(one.abs().max() for one in alone)
    assert size > 1e-4
    assert (together - sum(alone)).abs().max() < 0.1 * size


def test_two_pictures_of_one_file_add_up(model, file):
    one = loaded.with_picture(file, loaded.picture(1), weight=0.5)
    twice = loaded.with_picture(one, loaded.picture(1), weight=0.25)
    expected = loaded.put(model, loaded.with_picture(file, loaded.picture(1), weight=0.75))
    torch.testing.assert_close(models.step(loaded.put(model, twice)), models.step(expected), atol=1e-5, rtol=1e-4)


def test_another_nodes_override_computes_and_is_added_to(model, file):
    calls = []

    def override(func: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(1)
        return func(*args, **kwargs)

    patched = loaded.put(model, loaded.with_picture(file))
    expected = models.step(patched)
    result = models.step(patched, optimized_attention_override=override)
    assert len(calls) == 14
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=1e-5)


def test_it_acts_from_start_to_end(model, file):
    patched = loaded.put(model, loaded.with_picture(file, start=0.25, end=0.75))
    sampling = model.model.model_sampling
    sigmas = {part: sampling.percent_to_sigma(part) for part in (0.1, 0.3, 0.7, 0.9)}
    acts = {
        part: not torch.equal(
            models.step(patched, sigmas=torch.full((2,), sigma)), models.step(model, sigmas=torch.full((2,), sigma))
        )
        for part, sigma in sigmas.items()
    }
    assert acts == {0.1: False, 0.3: True, 0.7: True, 0.9: False}


def test_of_a_plus_file_without_negative_the_negative_prompt_sees_no_picture(model, plus):
    """Rows of the batch are the prompt's and the negative one's, in the order that ComfyUI says."""
    without = loaded.put(model, loaded.with_picture(plus))
    empty = loaded.put(model, loaded.with_picture(plus, negative=loaded.picture(9)))
    for order, unwanted in (([0, 1], 1), ([1, 0], 0)):
        difference = added(without, model, cond_or_uncond=order)
        assert difference[unwanted].abs().max() == 0
        assert difference[1 - unwanted].abs().max() > 1e-4
        assert added(empty, model, cond_or_uncond=order)[unwanted].abs().max() > 1e-4


@pytest.mark.parametrize("size", [16, 24])
def test_a_mask_says_where(model, file, size):
    """At each resolution of the UNet: what is added at a site is nothing outside of it, and all inside."""
    from onediff_pack.processors.loaded.ip_adapter import ImageAttention

    mask = torch.zeros(1, 8 * size, 8 * size)
    mask[:, :, : 4 * size] = 1
    seen: dict[str, list[torch.Tensor]] = {"masked": [], "all": []}
    for name, given in (("masked", mask), ("all", None)):
        patched = loaded.put(model, loaded.with_picture(file, mask=given))
        (patch,) = patched.get_wrappers("apply_model", "onediff")
        assert isinstance(patch.adds, ImageAttention)
        hook = patch.adds.register_forward_hook(lambda module, args, result, name=name: seen[name].append(result))
        models.step(patched, size=size)
        hook.remove()
    assert {one.shape[1] for one in seen["all"]} == {size**2, (size // 2) ** 2}
    for masked in seen["masked"]:
        wide = int(masked.shape[1] ** 0.5)
        by_column = masked.reshape(2, wide, wide, -1).abs().amax(dim=(0, 1, 3))
        assert (by_column[: wide // 2] > 0).all()
        assert (by_column[wide // 2 :] == 0).all()
    torch.testing.assert_close(
        seen["masked"][0].reshape(2, size, size, -1)[:, :, : size // 2],
        seen["all"][0].reshape(2, size, size, -1)[:, :, : size // 2],
    )


def test_each_mask_is_for_one_picture_of_the_batch(model, file):
    """Two latents, of the prompt and of the negative one each."""
    masks = torch.stack([torch.ones(64, 64), torch.zeros(64, 64)])
    patched = loaded.put(model, loaded.with_picture(file, mask=masks))
    difference = added(patched, model, batch=4, cond_or_uncond=[0, 1])
    acts = difference.abs().amax(dim=(1, 2, 3)) > 1e-4
    assert acts.tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("tokens", "size", "expected"),
    [
        (96, (8, 12), (8, 12)),
        (24, (8, 12), (4, 6)),
        (28, (13, 7), (7, 4)),
        (6, (3, 5), (2, 3)),
        (35, (16, 24), (5, 7)),
    ],
)
def test_the_grid_of_a_sites_tokens(tokens, size, expected):
    """Halved and rounded up as a UNet does; else the pair of factors that is nearest in its form."""
    from onediff_pack.processors.loaded.ip_adapter import grid

    assert grid(tokens, size) == expected


@pytest.mark.parametrize("compiles", [False, True])
def test_both_patches_of_a_site_say_that_they_took_part(model, file, compiles):
    """Sampled by ComfyUI's own sampler."""
    from changes import Setup, conditioning, sample
    from passthrough import without_inductor
    from sessions import compiled_clone

    patched: Any = loaded.put(with_processor(model, "sdpa"), loaded.with_picture(file))
    seen: list[tuple] = []
    for patch in patched.get_wrappers("apply_model", "onediff"):
        patch.ended = lambda unused, calls: seen.append((unused, calls.reached, calls.taken))
    with without_inductor():
        if compiles:
            patched, _, record = compiled_clone(patched)
        sample(Setup(patched, conditioning(1), conditioning(2)))
        if compiles:
            assert record["compile"]["regions_compiled"] == 15
    assert seen == [(None, 7, None), (None, 14, None)]


def test_it_keeps_nothing_when_a_sampling_has_ended(model, file):
    patched = loaded.put(model, loaded.with_picture(file))
    (patch,) = patched.get_wrappers("apply_model", "onediff")
    patch.sampling(lambda: models.step(patched))
    assert not any((patch.adds._known, patch.adds._tokens, patch.adds._masks))
    assert all("onediff_added" not in site.module.__dict__ for site in patch.sites)


BLACK = torch.zeros(1, 8, 8)


@pytest.mark.parametrize(
    ("values", "strength", "because"),
    [
        ({}, 1.0, None),
        ({}, 0.0, "strength"),
        ({"weight": 0.0}, 1.0, "weight"),
        ({"start": 0.8, "end": 0.2}, 1.0, "range"),
        ({"mask": BLACK}, 1.0, "mask"),
        ({"start": 0.98, "end": 0.99}, 1.0, "no step"),
        ({"mask": BLACK + torch.eye(8)}, 1.0, None),
    ],
)
def test_a_picture_that_is_seen_nowhere_says_why(model, file, values, strength, because):
    from changes import Setup, conditioning, sample

    patched: Any = loaded.put(model, loaded.with_picture(file, **values).with_strength(strength))
    seen: list[Any] = []
    for patch in patched.get_wrappers("apply_model", "onediff"):
        patch.ended = lambda unused, calls: seen.append(unused and (unused["why"], unused["because"]))
    setup = Setup(patched, conditioning(1), conditioning(2))
    result = sample(setup)
    assert seen == [because and ("adds nothing", because)]
    assert torch.equal(result, sample(Setup(model, conditioning(1), conditioning(2)))) == (because is not None)


def test_of_two_pictures_one_that_is_seen_is_enough(model, file):
    from changes import Setup, conditioning, sample

    both = loaded.with_picture(loaded.with_picture(file, weight=0.0), loaded.picture(7))
    patched: Any = loaded.put(model, both)
    seen: list[Any] = []
    for patch in patched.get_wrappers("apply_model", "onediff"):
        patch.ended = lambda unused, calls: seen.append(unused)
    sample(Setup(patched, conditioning(1), conditioning(2)))
    assert seen == [None]


def test_one_sampling_of_a_prompt_in_which_it_acts_is_enough(model, file):
    """As with two samplers, each with its part of the steps, in one workflow."""
    from changes import Setup, conditioning, sample

    patched: Any = loaded.put(model, loaded.with_picture(file))
    (patch,) = patched.get_wrappers("apply_model", "onediff")
    seen: list[Any] = []
    patch.ended = lambda unused, calls: seen.append(unused and unused["because"])
    prompt: Any = None
    patch.prompt = lambda: prompt
    acts = patch.adds.pictures
    for now, pictures in (("a", acts), ("a", ()), ("b", ())):
        prompt, patch.adds.pictures = now, pictures
        sample(Setup(patched, conditioning(1), conditioning(2)))
    assert seen == [None, None, "no step"]
