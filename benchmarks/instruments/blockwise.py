"""The baseline: torch.compile of each block by itself, as other packs do it."""

from __future__ import annotations

import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY, apply_torch_compile_factory
from torch import nn

#: Lists of blocks of transformers, by the names that ComfyUI's models give them.
LISTS = ("double_blocks", "single_blocks", "transformer_blocks", "blocks", "layers", "joint_blocks")

#: Blocks of UNets. Their container asks for the class, so the ``forward`` is compiled, not the module.
UNET_BLOCKS = ("BasicTransformerBlock", "ResBlock")


def keys_of(diffusion_model: nn.Module) -> list[str]:
    """What is compiled, as attributes of ComfyUI's BaseModel."""
    keys = [
        f"diffusion_model.{name}.{index}" for name in LISTS for index in range(len(getattr(diffusion_model, name, ())))
    ]
    modules = diffusion_model.named_modules()
    return keys or [f"diffusion_model.{p}.forward" for p, m in modules if type(m).__name__ in UNET_BLOCKS]


def without_options(guards: list) -> list[bool]:
    """Leaves the guards on ``transformer_options`` out, as ComfyUI's own node does: with them every block compiles."""
    return ["transformer_options" not in guard.name for guard in guards]


class CompileBlockwise:
    """MODEL in, MODEL with every block compiled out."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("MODEL",)}})
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "compile"

    def compile(self, model):
        # The usual limit of 8 is less than a UNet has widths.
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
        clone = model.clone(disable_dynamic=True)
        clone.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, COMPILE_KEY)
        compiled = {
            # A dict of its own for each: torch.compile takes the filter out of it.
            key: torch.compile(clone.get_model_object(key), options={"guard_filter_fn": without_options})
            for key in keys_of(clone.get_model_object("diffusion_model"))
        }
        clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, COMPILE_KEY, apply_torch_compile_factory(compiled))
        return (clone,)
