"""A processor or compiled blocks that take no part in a sampling, because another node computes the model: the host's
own guider samples."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from onediff_pack.patching.wrappers import attach
from onediff_pack.processors import find_sites, get_processor, select_sites
from onediff_pack.processors.attention_patch import AttentionPatch
from onediff_pack.processors.authored.adapt import adapt
from sessions import FakeBackend, compiled_clone, known, using

pytestmark = pytest.mark.usefixtures("host")


class DeepCache:
    """Takes the place of the model call, as the node packs of that name do: it calls the model's parts itself."""

    def apply(self, patcher):
        clone = patcher.clone()

        def apply_model(model_function, arguments):
            x, timestep, options = arguments["input"], arguments["timestep"], arguments["c"]["transformer_options"]
            context = arguments["c"]["c_crossattn"]
            return clone.model.diffusion_model(x, timestep, context=context, transformer_options=options)

        clone.set_model_unet_function_wrapper(apply_model)
        return clone


def skip_blocks(executor, x, *args, **kwargs):
    return torch.zeros_like(x)


@pytest.fixture
def patcher():
    import models

    with using(known(FakeBackend())):
        yield models.unet_patcher()


def sample(patcher, sigmas=(1.0, 0.6, 0.3, 0.0), name="euler"):
    """A sampling as ComfyUI's nodes make it."""
    import comfy.samplers

    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(1, 4, 8, 8, generator=generator)
    guider = comfy.samplers.CFGGuider(patcher)
    prompt = [[torch.randn(1, 7, 48, generator=generator), {}]]
    guider.set_conds(prompt, prompt)
    sampler = comfy.samplers.sampler_object(name)
    with torch.inference_mode():
        return guider.sample(noise, torch.zeros_like(noise), sampler, torch.tensor(sigmas), disable_pbar=True)


def patched(patcher, kind="sdpa", superseded=None):
    """A patched clone; what is said at the end of each of its samplings; its sites."""
    clone, said, sites = patcher.clone(), [], find_sites(patcher.model.diffusion_model)

    def ended(unused, calls):
        said.append((unused, calls.reached, calls.by_sdpa))

    attach(clone, AttentionPatch(sites, get_processor(kind), lambda options: None, superseded, kind, ended))
    return clone, said, sites


def compiled(patcher):
    clone, _, record = compiled_clone(patcher)
    return clone, record


def test_a_processor_that_is_called_is_counted_at_its_sites(patcher):
    clone, said, sites = patched(patcher)
    sample(clone)
    assert said == [(None, len(sites), 0)]
    left = [path for path, module in clone.model.named_modules() if "forward" in module.__dict__]
    assert left == []
    patch = weakref.ref(clone.get_wrappers("apply_model", "onediff")[0])
    gc.disable()
    try:
        del clone
        assert patch() is None, "it would keep the model's weights until Python's next collection"
    finally:
        gc.enable()


def test_a_wrapper_that_calls_the_blocks_itself_is_named_on_both_nodes(patcher):
    clone, said, sites = patched(patcher)
    clone, record = compiled(clone)
    sample(DeepCache().apply(clone))
    (unused, reached, _), *_ = said
    assert (unused["why"], unused["by"], reached) == ("not called", "DeepCache", None)
    assert unused["where"].endswith(":DeepCache.apply.<locals>.apply_model")
    assert record["state"] == "uncompiled"
    assert record["summary"] == "no effect: “DeepCache” runs in the model's place"
    assert record["unused"] == unused
    sample(clone)
    assert said[-1] == (None, len(sites), 0)
    assert (record["state"], record["unused"]) == ("compiled", None)


class EverySecondStep(DeepCache):
    """Calls the model in some steps, and its parts itself in the others."""

    def __init__(self, full: int):
        self.full = full

    def apply(self, patcher):
        clone = super().apply(patcher)
        instead, calls = clone.model_options["model_function_wrapper"], iter(range(1_000))

        def apply_model(model_function, arguments):
            if next(calls) < self.full:
                return model_function(arguments["input"], arguments["timestep"], **arguments["c"])
            return instead(model_function, arguments)

        clone.set_model_unet_function_wrapper(apply_model)
        return clone


SIGMAS = (*(1.0 - n / 12 for n in range(12)), 0.0)


def test_a_wrapper_that_takes_over_most_steps_is_said_on_both_nodes(patcher):
    clone, said, _ = patched(patcher)
    clone, record = compiled(clone)
    sample(clone, SIGMAS)  # compiles
    assert record["unused"] is None
    sample(EverySecondStep(1).apply(clone), SIGMAS)
    unused: Any = record["unused"]
    assert (unused["why"], unused["steps"], unused["of"], unused["by"]) == ("some steps", 1, 12, "EverySecondStep")
    assert record["state"] == "compiled"
    assert record["summary"].endswith(" · took part in 1 of 12 steps (the others: “EverySecondStep”)")
    assert said[-1][0] == unused
    sample(clone, SIGMAS)
    assert record["unused"] is None and said[-1][0] is None


def caching(patcher, name):
    """A clone with one of ComfyUI's own caching nodes, which leave out steps: inside the model, or around it."""
    from comfy_extras import nodes_easycache

    node = getattr(nodes_easycache, f"{name}Node")
    return node.execute(patcher, reuse_threshold=3.0, start_percent=0.0, end_percent=1.0, verbose=False).args[0]


@pytest.mark.parametrize("name", ["EasyCache", "LazyCache"])
@pytest.mark.parametrize("first", [True, False])
def test_comfyuis_caching_nodes_are_said_on_both_nodes(patcher, name, first):
    base = caching(patcher, name) if first else patcher
    clone, said, _ = patched(base)
    sample(clone if first else caching(clone, name), SIGMAS)
    unused = said[-1][0]
    assert (unused["why"], unused["of"], unused["by"]) == ("some steps", 12, name.lower())
    assert 2 <= unused["steps"] < 12
    clone, record = compiled(base)
    for _ in range(2):  # compiles in the first
        sample(clone if first else caching(clone, name), SIGMAS)
        assert record["unused"] == unused
    words = f" · took part in {unused['steps']} of 12 steps (the others: “{name.lower()}”)"
    assert record["summary"].endswith(words)


@pytest.mark.parametrize("second", [SIGMAS, SIGMAS[-2:]])
def test_a_later_sampling_of_the_same_prompt_does_not_make_up_for_an_earlier_one(patcher, second):
    """As when a picture is made, and made larger in a second sampling, where only one of both goes its own way."""
    prompt = ["first"]
    clone, said, _ = patched(patcher)
    clone.get_wrappers("apply_model", "onediff")[0].prompt = lambda: prompt[0]
    clone, _, record = compiled_clone(clone, prompt=lambda: prompt[0])
    sample(DeepCache().apply(clone), SIGMAS)
    assert record["summary"] == "no effect: “DeepCache” runs in the model's place"
    sample(clone, second)
    steps = len(second) - 1
    unused = record["unused"]
    assert (unused["why"], unused["steps"], unused["of"], unused["by"]) == (
        "some steps", steps, 12 + steps, "DeepCache"
    )  # fmt: skip
    assert said[-1][0] == unused
    prompt[0] = "next"
    sample(clone, second)
    assert record["unused"] is None and said[-1][0] is None


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2s_ancestral", "dpm_fast", "lms", "uni_pc"])
def test_no_step_is_missed_whatever_sampler_calls_the_model(patcher, sampler):
    clone, said, _ = patched(patcher)
    clone.set_model_unet_function_wrapper(
        lambda call, arguments: call(arguments["input"], arguments["timestep"], **arguments["c"])
    )
    sample(clone, SIGMAS, sampler)
    assert said[-1][0] is None


def test_a_wrapper_that_calls_the_model_is_not_blamed(patcher):
    clone, said, sites = patched(patcher)
    clone, record = compiled(clone)
    clone.set_model_unet_function_wrapper(
        lambda call, arguments: call(arguments["input"], arguments["timestep"], **arguments["c"])
    )
    sample(clone)
    assert said == [(None, len(sites), 0)]
    assert record["unused"] is None


@pytest.mark.parametrize("sigmas", [(), (1.0,)])
def test_a_sampling_without_steps_says_nothing(patcher, sigmas):
    clone, said, _ = patched(patcher)
    clone, record = compiled(clone)
    sample(clone, sigmas)
    assert [unused for unused, *_ in said] in ([], [None])
    assert record["unused"] is None


def test_what_computes_the_blocks_inside_the_model_is_named(patcher):
    clone, said, _ = patched(patcher)
    clone.add_wrapper_with_key("diffusion_model", "another pack", skip_blocks)
    sample(clone)
    assert said[0][0]["why"] == "not reached"
    assert said[0][0]["where"].endswith(":skip_blocks")
    clone, record = compiled(patcher)
    clone.add_wrapper_with_key("diffusion_model", "another pack", skip_blocks)
    sample(clone)
    assert (record["state"], record["unused"]["why"]) == ("uncompiled", "not reached")
    assert "computes the blocks instead" in record["summary"]


def test_a_later_override_or_patch_that_takes_all_sites_is_named(patcher):
    def sage(attention, *args, **kwargs):
        return attention(*args, **kwargs)

    clone, said, _ = patched(patcher)
    later, said_later, sites = patched(clone, "reference")
    sample(later)
    assert said[0][0] == {"why": "not reached", "by": "Patch Attention Processors", "where": None}
    assert said_later == [(None, len(sites), 0)]
    clone.model_options["transformer_options"]["optimized_attention_override"] = sage
    sample(clone)
    assert said[-1][0]["why"] == "not reached"
    assert said[-1][0]["where"].endswith("sage")
    before, said_before, _ = patched(clone, superseded=sage)
    sample(before)
    assert said_before[-1] == (None, len(sites), 0)


class KernelWithoutMask(torch.nn.Module):
    def forward(self, q, k, v, heads):
        return get_processor("sdpa")(q, k, v, heads)


class ModuleWithoutMask(torch.nn.Module):
    def forward(self, attn, hidden_states, encoder_hidden_states=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        return attn.to_out[0](attn.to_v(context[:, :1]).expand(-1, hidden_states.shape[1], -1))


def hand_a_mask(module, args, kwargs):
    """As a node for regions does."""
    x, context = args[0], kwargs.get("context")
    return args, {**kwargs, "mask": torch.zeros(x.shape[1], (x if context is None else context).shape[1])}


@pytest.mark.parametrize("cls", [KernelWithoutMask, ModuleWithoutMask])
@pytest.mark.parametrize("each", [False, True], ids=["one for both nodes", "one each"])
def test_calls_that_go_to_sdpa_are_counted_by_the_node_whose_sites_they_are(patcher, cls, each):
    """One processor may be on both nodes; a node that comes later takes sites from another."""
    sites, processor, said = find_sites(patcher.model.diffusion_model), adapt(cls().eval()), {"all": [], "some": []}
    some = select_sites(sites, "all", "middle_block")
    clone = patcher.clone()
    for name, places in (("all", sites), ("some", some)):
        one = adapt(cls().eval()) if each else processor
        tell = lambda _, calls, name=name: said[name].append(calls.by_sdpa)  # noqa: E731
        attach(clone, AttentionPatch(places, one, lambda options: None, ended=tell))
    hooks = [site.module.register_forward_pre_hook(hand_a_mask, with_kwargs=True) for site in sites[:-1]]
    sample(clone)
    sample(clone)
    steps = 3
    assert said == {"all": [steps * (len(sites) - len(some) - 1)] * 2, "some": [steps * len(some)] * 2}
    for hook in hooks:
        hook.remove()
    sample(clone)
    assert (said["all"][-1], said["some"][-1]) == (0, 0)


def test_replaced_attention_of_single_blocks_shows_in_the_count(patcher):
    clone, said, sites = patched(patcher)
    clone.set_model_attn1_replace(lambda q, k, v, options: q, "middle", 0)
    sample(clone)
    assert said == [(None, len(sites) - 1, 0)]


def test_a_sampler_with_a_loop_of_its_own_samples_too(patcher):
    """It calls the model, and ends no sampling of ComfyUI's."""
    from models import step

    clone, _, record = compiled_clone(patcher)
    for _ in range(3):
        step(clone)
    assert record.sampled_at > 0


def test_comfyuis_nodes_are_named_by_what_they_do_as_its_server_loads_them():
    """Under their paths; other packs, under theirs."""
    from onediff_pack.patching.instead import named

    def wrapper():
        pass

    for folder, by in (("/data/ComfyUI-0_x_30_x_0/comfy_extras", "easycache"), ("/data/custom_nodes/pack", "pack")):
        wrapper.__module__ = f"{folder}/nodes_easycache" if by == "easycache" else folder
        wrapper.__qualname__ = "easycache_forward_wrapper"
        assert named(wrapper, "easycache")["by"] == by


def test_of_several_wrappers_none_is_blamed(patcher):
    clone, said, _ = patched(patcher)
    clone.add_wrapper_with_key("apply_model", "innocent", lambda executor, *args, **kwargs: executor(*args, **kwargs))
    clone.add_wrapper_with_key("predict_noise", "guilty", lambda executor, x, *args: torch.zeros_like(x))
    sample(clone)
    ((unused, *_),) = said
    assert (unused["why"], unused["by"]) == ("not called", None)
