"""Custom nodes for the soak's servers: what other packs do to a MODEL, and latents kept as they are."""

from __future__ import annotations

import ctypes
import gc
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import folder_paths
import torch
from aiohttp import web
from server import PromptServer

#: Which blocks a place is, by what ComfyUI says in ``transformer_options``.
PLACES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "": lambda options: True,
    "middle": lambda options: options.get("block") == ("middle", 0),
    "input": lambda options: options.get("block", ("",))[0] == "input",
    "single": lambda options: options.get("block_type") == "single",
    "first": lambda options: options.get("block_index") == 0,
}


class Conditioning:
    """A prompt of random numbers, (1, tokens, width), and a pooled one, (1, pooled)."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {n: ("INT",) for n in ("tokens", "width", "pooled", "seed")}})
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "make"

    def make(self, tokens: int, width: int, pooled: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        prompt = torch.randn(1, tokens, width, generator=generator)
        return ([[prompt, {"pooled_output": torch.randn(1, pooled, generator=generator)}]],)


class Again:
    """The latent as it is. Another ``number`` makes ComfyUI sample again, while models stay in its cache."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"latent": ("LATENT",), "number": ("INT", {"max": 2**31})}})
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "again"

    def again(self, latent, number: int):
        return (latent,)


class Override:
    """Another node's attention: ComfyUI's, times ``strength``."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("MODEL",), "strength": ("FLOAT", {"min": -9.0})}})
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "put"

    def put(self, model, strength: float):
        return (_with_override(model, lambda func, *args, **kwargs: func(*args, **kwargs) * strength),)


class AttentionAt:
    """What the uncompiled server has in the place of a processor that changes attention: ComfyUI's, times ``inside`` at
    the sites of a kind and place, and times ``outside`` at others."""

    INPUT_TYPES = classmethod(
        lambda cls: {
            "required": {
                "model": ("MODEL",),
                "inside": ("FLOAT", {"min": -9.0}),
                "outside": ("FLOAT", {"min": -9.0}),
                "kind": (["all", "self", "cross"],),
                "place": (list(PLACES),),
            }
        }
    )
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "put"

    def put(self, model, inside: float, outside: float, kind: str, place: str):
        def override(func, q, k, *args, **kwargs):
            # The soak's pictures and prompts never have the same number of tokens.
            found = "self" if q.shape[-2] == k.shape[-2] else "cross"
            is_inside = kind in ("all", found) and PLACES[place](kwargs.get("transformer_options") or {})
            return func(q, k, *args, **kwargs) * (inside if is_inside else outside)

        return (_with_override(model, override),)


class Replacement:
    """Another node's replacement: of self-attention in a UNet's middle block, or in the last one before it that has
    attention; or of a transformer's first block."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("MODEL",), "strength": ("FLOAT", {"min": -9.0})}})
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "put"

    def put(self, model, strength: float):
        clone = model.clone()
        model = clone.model.diffusion_model
        if hasattr(model, "middle_block"):
            has_attention = any(hasattr(module, "attn1") for module in model.middle_block.modules())
            place = ("middle", 0) if has_attention else ("input", len(model.input_blocks) - 1)
            clone.set_model_attn1_replace(lambda q, k, v, extra_options: v * strength, *place)
            return (clone,)

        def block(args, extra):
            out = extra["original_block"](args)
            return {**out, "img": out["img"] * strength}

        clone.set_model_patch_replace(block, "dit", "double_block", 0)
        return (clone,)


class Keep:
    """Writes a latent as float32 numbers, and says where."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"latent": ("LATENT",)}})
    RETURN_TYPES = ()
    FUNCTION = "keep"
    OUTPUT_NODE = True

    def keep(self, latent):
        name = f"{uuid.uuid4().hex}.f32"
        samples = latent["samples"].float().cpu().contiguous()
        Path(folder_paths.get_output_directory(), name).write_bytes(samples.numpy().tobytes())
        return {"ui": {"latent": [name]}}


def _with_override(model: Any, override: Callable) -> Any:
    clone = model.clone()
    clone.model_options["transformer_options"]["optimized_attention_override"] = override
    return clone


class _Heap(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = tuple((name, ctypes.c_size_t) for name in _names)


@PromptServer.instance.routes.get("/soak/heap")
async def heap(_request: web.Request) -> web.Response:
    """MB that are allocated; null where this is not glibc. What is only waiting to be freed is freed before, so that
    what is resident right after it is what is held: ComfyUI looks for cycles every ten seconds, and until then a whole
    model can be one; glibc keeps for later what a program has freed.
    """
    gc.collect()
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.malloc_trim(ctypes.c_size_t(0))
        mallinfo2 = libc.mallinfo2
    except (OSError, AttributeError):
        return web.json_response(None)
    mallinfo2.restype = _Heap
    found = mallinfo2()
    return web.json_response((found.uordblks + found.hblkhd) / 2**20)


NODE_CLASS_MAPPINGS = {
    "SoakConditioning": Conditioning,
    "SoakAgain": Again,
    "SoakOverride": Override,
    "SoakAttentionAt": AttentionAt,
    "SoakReplacement": Replacement,
    "SoakKeep": Keep,
}
