"""IP-Adapter's published files compute what diffusers computes with them, on UNets of ComfyUI."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import loaded
import pytest
import torch

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")
pytest.importorskip("diffusers", reason="diffusers is not installed")

import models

pytestmark = pytest.mark.usefixtures("host")

CONTEXT = 48
PROJECTIONS = {"standard": loaded.standard, "plus": loaded.plus, "full": loaded.full}
UNETS = {"sd15": models.unet_patcher, "deep": models.deep_unet_patcher, "sdxl": models.sdxl_patcher}

#: The same UNets as diffusers has them.
CONFIGS: dict[str, dict[str, Any]] = {
    "sd15": {
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    },
    "deep": {
        "block_out_channels": (32, 64, 128, 128),
        "layers_per_block": 2,
        "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    },
    "sdxl": {
        "block_out_channels": (32, 32),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2),
        "use_linear_projection": True,
    },
}


#: SD 1.5 and SDXL as people use them, by ComfyUI's settings and by diffusers'.
FULL_SIZE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sd15": (
        {
            **models.DEEP_UNET,
            **{"model_channels": 320, "context_dim": 768, "num_heads": 8},
        },
        {
            "block_out_channels": (320, 640, 1280, 1280),
            "down_block_types": CONFIGS["deep"]["down_block_types"],
            "up_block_types": CONFIGS["deep"]["up_block_types"],
            "cross_attention_dim": 768,
        },
    ),
    "sdxl": (
        {
            **models.SDXL,
            **{"model_channels": 320, "context_dim": 2048, "num_heads": -1, "num_head_channels": 64},
            **{"channel_mult": [1, 2, 4], "num_res_blocks": [2, 2, 2], "adm_in_channels": 2816},
            **{"transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10},
            "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        },
        {
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "use_linear_projection": True,
            "cross_attention_dim": 2048,
        },
    ),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    from passthrough import one_thread

    with one_thread():
        yield


def projected(kind: str, tensors: dict[str, torch.Tensor], given: torch.Tensor) -> torch.Tensor:
    """A picture's tokens as diffusers makes them of the file's tensors."""
    from diffusers.loaders.unet import UNet2DConditionLoadersMixin

    own = {name.removeprefix("image_proj."): one for name, one in tensors.items() if name.startswith("image_proj.")}
    loader = UNet2DConditionLoadersMixin()
    if kind == "plus":  # diffusers takes four layers for granted
        from diffusers.models.embeddings import IPAdapterPlusImageProjection

        made: Any = IPAdapterPlusImageProjection(
            loaded.HIDDEN, CONTEXT, own["latents"].shape[2], 2, heads=2, num_queries=own["latents"].shape[1]
        )
        made.load_state_dict(in_diffusers_names(own))
    else:
        made = loader._convert_ip_adapter_image_proj_to_diffusers(own, low_cpu_mem_usage=False)
    return made(given).detach().reshape(1, -1, CONTEXT)


def in_diffusers_names(own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    names = {
        "0.norm1": "ln0", "0.norm2": "ln1", "0.to_q": "attn.to_q", "0.to_out": "attn.to_out.0", "1.0": "ff.0",
        "1.1": "ff.1.net.0.proj", "1.3": "ff.1.net.2",
    }  # fmt: skip
    found = {}
    for name, tensor in own.items():
        if not name.startswith("layers."):
            found[name] = tensor
            continue
        _, number, rest = name.split(".", 2)
        part, _, leaf = rest.rpartition(".")
        if part == "0.to_kv":
            found[f"layers.{number}.attn.to_k.weight"], found[f"layers.{number}.attn.to_v.weight"] = tensor.chunk(2)
        else:
            found[f"layers.{number}.{names[part]}.{leaf}"] = tensor
    return found


@contextmanager
def watched(sites: list[Any]) -> Iterator[dict[str, tuple]]:
    """What each site was given, and what it gave."""
    seen: dict[str, tuple] = {}
    hooks = [
        site.module.register_forward_hook(
            lambda module, args, kwargs, result, path=site.path: seen.update({path: (args, kwargs, result)}),
            with_kwargs=True,
        )
        for site in sites
    ]
    yield seen
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def by_diffusers(module: Any, x: torch.Tensor, context: torch.Tensor, tokens: torch.Tensor, weights: Any, scale: float):
    from diffusers.models.attention_processor import Attention, IPAdapterAttnProcessor2_0

    inner, width = module.to_q.weight.shape
    attention: Any = Attention(width, CONTEXT, heads=module.heads, dim_head=inner // module.heads)
    attention.load_state_dict(module.state_dict())
    processor = IPAdapterAttnProcessor2_0(inner, CONTEXT, num_tokens=(tokens.shape[-2],), scale=scale)
    processor.to_k_ip[0].weight.data, processor.to_v_ip[0].weight.data = weights
    attention.set_processor(processor)
    return attention(x, encoder_hidden_states=(context, [tokens])).detach()


@pytest.mark.parametrize("unet", ["sd15", "sdxl"])
@pytest.mark.parametrize("kind", PROJECTIONS)
def test_each_site_gives_what_diffusers_gives(tmp_path, kind, unet):
    model = UNETS[unet]()
    torch.manual_seed(0)
    tensors = loaded.ip_adapter(model, PROJECTIONS[kind](CONTEXT))
    file = loaded.opened(loaded.saved(tmp_path, tensors)).with_strength(0.7)
    given, empty = loaded.picture(5, pictures=2), loaded.picture(6)
    patched = loaded.put(model, loaded.with_picture(file, given, empty, weight=0.5))
    takes = "image_embeds" if kind == "standard" else "penultimate_hidden_states"
    seen_by_clip = getattr(given, takes)
    nothing = torch.zeros_like(seen_by_clip) if kind == "standard" else getattr(empty, takes).expand_as(seen_by_clip)
    tokens = torch.cat([projected(kind, tensors, seen_by_clip), projected(kind, tensors, nothing)])
    sites = loaded.cross(model)
    assert len({site.module.to_q.weight.shape for site in sites}) > (unet == "sd15")
    with watched(sites) as seen:
        models.step(patched)
    for number, site in enumerate(sites):
        args, kwargs, result = seen[site.path]
        context = kwargs.get("context", args[1] if len(args) > 1 else None)
        weights = [tensors[f"ip_adapter.{2 * number + 1}.to_{which}_ip.weight"] for which in "kv"]
        expected = by_diffusers(site.module, args[0], context, tokens, weights, 0.35)
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("unet", CONFIGS)
def test_sites_are_numbered_as_diffusers_numbers_them(unet):
    """Down, up, middle; of other widths each."""
    from diffusers import UNet2DConditionModel
    from onediff_pack.processors import find_sites
    from onediff_pack.processors.loaded.unet_names import by_diffusers_name

    theirs: Any = UNet2DConditionModel(
        cross_attention_dim=CONTEXT, attention_head_dim=2, norm_num_groups=32, **CONFIGS[unet]
    )
    ours = by_diffusers_name(UNETS[unet]().model.diffusion_model, find_sites(UNETS[unet]().model.diffusion_model))
    assert [f"{name}.processor" for name in ours] == list(theirs.attn_processors)
    for name, site in ours.items():
        module: Any = site.module
        assert module.to_k.weight.shape == theirs.get_submodule(name).to_k.weight.shape, name


@pytest.mark.parametrize(("unet", "number"), [("sd15", 16), ("sdxl", 70)])
def test_the_published_sizes_have_as_many_places_as_the_published_files(unet, number):
    """Without memory for weights: names, order and widths."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from diffusers import UNet2DConditionModel
    from onediff_pack.processors import find_sites
    from onediff_pack.processors.loaded.unet_names import by_diffusers_name, cross_sites

    ours, theirs = FULL_SIZE[unet]
    with torch.device("meta"):
        reference: Any = UNet2DConditionModel(**theirs)
        model = UNetModel(**ours, device="meta", operations=comfy.ops.disable_weight_init)
    named = by_diffusers_name(model, find_sites(model))
    assert [f"{name}.processor" for name in named] == list(reference.attn_processors)
    modules: list[Any] = [site.module for site in cross_sites(model, find_sites(model))]
    widths = [module.to_q.weight.shape for module in modules]
    cross = [name.removesuffix(".processor") for name in reference.attn_processors if "attn2" in name]
    assert widths == [reference.get_submodule(name).to_q.weight.shape for name in cross]
    assert len(widths) == number
