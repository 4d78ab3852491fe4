"""What other nodes do to a MODEL or its conditionings, and sampling it by ComfyUI's own sampler.

Many changes are made by ComfyUI's own nodes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from onediff_pack.patching.wrappers import attach
from onediff_pack.processors import KernelProcessor, find_sites, get_processor
from onediff_pack.processors.attention_patch import AttentionPatch

STEPS = 6


@dataclass
class Setup:
    """What a change may change: the MODEL and the two conditionings."""

    model: Any
    positive: list
    negative: list
    undo: list[Callable[[], None]] = field(default_factory=list)

    def restore(self) -> None:
        for undo in self.undo:
            undo()


Change = Callable[[Setup], None]
CHANGES: dict[str, tuple[Change, tuple[str, ...]]] = {}


def change(name: str, *models: str) -> Callable[[Change], Change]:
    """Decorator: a change to try on these models, on both when none is named."""

    def add(function: Change) -> Change:
        CHANGES[name] = (function, models or ("unet", "flux"))
        return function

    return add


def node(module: str, name: str, setup: Setup, **inputs: Any) -> None:
    """Runs a node of ComfyUI on the MODEL."""
    cls = getattr(importlib.import_module(f"comfy_extras.{module}"), name)
    output = cls.execute(setup.model, **inputs)
    setup.model = getattr(output, "args", output)[0]


def first_block_weight(setup: Setup) -> str:
    """A weight inside a block, by its name in the MODEL."""
    weights = setup.model.model_state_dict()
    parts = ("transformer_blocks.0.ff.", "double_blocks.0.img_mlp.")
    return next(n for n, w in weights.items() if n.endswith(".weight") and w.ndim == 2 and any(p in n for p in parts))


def lora(setup: Setup, strength: float) -> None:
    name = first_block_weight(setup)
    weight = setup.model.model_state_dict()[name]
    torch.manual_seed(5)
    setup.model = setup.model.clone()
    setup.model.add_patches({name: ("diff", (torch.randn_like(weight),))}, strength)


@change("attention override")
def _override(setup):
    setup.model = setup.model.clone()
    setup.model.model_options["transformer_options"]["optimized_attention_override"] = lambda func, *args, **kwargs: (
        func(*args, **kwargs) * 0.5
    )


@change("attention input patch")
def _input_patch(setup):
    setup.model = setup.model.clone()
    if hasattr(setup.model.model.diffusion_model, "double_blocks"):
        setup.model.set_model_attn1_patch(
            lambda q, k, v, pe=None, attn_mask=None, extra_options=None: {"q": q * 2, "k": k, "v": v, "pe": pe}
        )
    else:
        setup.model.set_model_attn1_patch(lambda q, k, v, extra_options: (q, k, v * 2))


@change("cross-attention input patch", "unet")
def _cross_patch(setup):
    setup.model = setup.model.clone()
    setup.model.set_model_attn2_patch(lambda q, k, v, extra_options: (q, k * 2, v))


@change("attention output patch")
def _output_patch(setup):
    setup.model = setup.model.clone()
    setup.model.set_model_attn1_output_patch(lambda out, extra_options: out * 0.5)


@change("cross-attention output patch", "unet")
def _cross_output_patch(setup):
    setup.model = setup.model.clone()
    setup.model.set_model_attn2_output_patch(lambda out, extra_options: out * 0.5)


@change("patch between attentions", "unet")
def _middle_patch(setup):
    setup.model = setup.model.clone()
    setup.model.set_model_patch(lambda x, extra_options: x * 0.5, "middle_patch")


@change("patch after input blocks", "unet")
def _input_block_patch(setup):
    setup.model = setup.model.clone()
    setup.model.set_model_input_block_patch(lambda h, options: h * 1.5)


@change("replaced attention", "unet")
def _replaced_attention(setup):
    setup.model = setup.model.clone()
    setup.model.set_model_attn1_replace(lambda q, k, v, extra_options: v, "middle", 0)


@change("replaced cross-attention", "unet")
def _replaced_cross_attention(setup):
    setup.model = setup.model.clone()
    setup.model.set_model_attn2_replace(lambda q, k, v, extra_options: q * 0.5, "middle", 0)


@change("replaced block", "flux")
def _replaced_block(setup):
    def half(args, extra):
        out = extra["original_block"](args)
        return {**out, "img": out["img"] * 0.5}

    setup.model = setup.model.clone()
    setup.model.set_model_patch_replace(half, "dit", "double_block", 0)


@change("wrapper of the diffusion model")
def _wrapper(setup):
    import comfy.patcher_extension as extension

    setup.model = setup.model.clone()
    setup.model.add_wrapper_with_key(
        extension.WrappersMP.DIFFUSION_MODEL, "test", lambda executor, *args, **kwargs: executor(*args, **kwargs) * 0.5
    )


@change("function around the model")
def _function_wrapper(setup):
    setup.model = setup.model.clone()
    setup.model.set_model_unet_function_wrapper(
        lambda apply, args: apply(args["input"], args["timestep"], **args["c"]) * 0.5
    )


@change("LoRA")
def _lora(setup):
    lora(setup, 1.0)


@change("LoRA at another strength")
def _lora_weaker(setup):
    lora(setup, -0.5)


@change("LoRA on a part of the prompt's steps")
def _hooked_lora(setup):
    import comfy.hooks as hooks

    name = first_block_weight(setup)
    weight = setup.model.model_state_dict()[name]
    torch.manual_seed(5)
    group = hooks.HookGroup()
    hook = hooks.WeightHook(strength_model=1.0, strength_clip=1.0)
    hook.weights = {name: ("diff", (torch.randn_like(weight),))}
    hook.need_weight_init = False
    group.add(hook)
    setup.positive = hooks.set_hooks_for_conditioning(setup.positive, group)


@change("replaced module")
def _object_patch(setup):
    class Double(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, *args, **kwargs):
            return self.inner(*args, **kwargs) * 1.5

    setup.model = setup.model.clone()
    name = first_block_weight(setup).removesuffix(".weight")
    setup.model.add_object_patch(name, Double(setup.model.get_model_object(name)))


@change("another attention processor")
def _processor(setup):
    setup.model = setup.model.clone()
    attach(setup.model, AttentionPatch(find_sites(setup.model.model.diffusion_model), Halved(), lambda options: None))


class Halved(KernelProcessor):
    """Half of what attention is."""

    def forward(self, *args, **kwargs):
        return get_processor("sdpa")(*args, **kwargs) * 0.5


@change("hook on a layer")
def _hook(setup):
    layer = setup.model.get_model_object(first_block_weight(setup).removesuffix(".weight"))
    setup.undo.append(layer.register_forward_hook(lambda module, args, output: output * 1.5).remove)


@change("hook that a wrapper of the diffusion model sets")
def _hook_while_sampling(setup):
    import comfy.patcher_extension as extension

    setup.model = setup.model.clone()
    layer = setup.model.get_model_object(first_block_weight(setup).removesuffix(".weight"))

    def with_hook(executor, *args, **kwargs):
        with layer.register_forward_hook(lambda module, args, output: output * 1.5):
            return executor(*args, **kwargs)

    setup.model.add_wrapper_with_key(extension.WrappersMP.DIFFUSION_MODEL, "test", with_hook)


@change("LoRA beside the weights")
def _bypass(setup):
    """As ComfyUI's bypass LoRA does: another object's method is the layer's forward."""
    import comfy.patcher_extension as extension

    class Beside:
        def __init__(self, layer):
            self.layer, self.original = layer, layer.forward

        def forward(self, x):
            return self.original(x) * 1.5

        def inject(self, patcher):
            self.layer.forward = self.forward

        def eject(self, patcher):
            self.layer.forward = self.original

    setup.model = setup.model.clone()
    beside = Beside(setup.model.get_model_object(first_block_weight(setup).removesuffix(".weight")))
    setup.model.set_injections("test", [extension.PatcherInjection(beside.inject, beside.eject)])


@change("replaced forward of a layer's class")
def _class_forward(setup):
    kinds = {type(m).__name__: type(m) for m in setup.model.model.diffusion_model.modules()}
    kind = kinds.get("FeedForward") or kinds["QKNorm"]
    forward = kind.forward

    def stronger(self, *args, **kwargs):
        result = forward(self, *args, **kwargs)
        return tuple(r * 1.5 for r in result) if isinstance(result, tuple) else result * 1.5

    kind.forward = stronger
    setup.undo.append(lambda: setattr(kind, "forward", forward))


@change("replaced forward of a block", "flux")
def _block_forward(setup):
    setup.model = setup.model.clone()
    forward = setup.model.get_model_object("diffusion_model.single_blocks.0.forward")
    setup.model.add_object_patch(
        "diffusion_model.single_blocks.0.forward", lambda *args, **kwargs: forward(*args, **kwargs) * 0.5
    )


@change("ControlNet", "unet")
def _controlnet(setup):
    from comfy.controlnet import ControlBase

    class Control(ControlBase):
        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            return {"middle": [torch.full((1, 64, 1, 1), 0.5)], "output": [torch.full((1, 32, 1, 1), 0.5)]}

        def copy(self):
            return self

        def get_models(self):
            return []

    control = Control()
    setup.positive = [
        [c, {**extra, "control": control, "control_apply_to_uncond": True}] for c, extra in setup.positive
    ]


@change("regional prompt")
def _regional(setup):
    (context, extra), *_ = setup.positive
    mask = torch.zeros(1, 16, 16)
    mask[:, :, :8] = 1
    setup.positive = [
        [context, {**extra, "mask": mask, "mask_strength": 1.0, "set_area_to_bounds": False}],
        [context.flip(1) * 2, {**extra, "mask": 1 - mask, "mask_strength": 1.0, "set_area_to_bounds": False}],
    ]


@change("prompt in an area")
def _area(setup):
    (context, extra), *_ = setup.positive
    setup.positive = [[context, extra], [context.flip(1) * 2, {**extra, "area": (8, 8, 4, 4), "strength": 1.0}]]


@change("scheduled prompts")
def _scheduled(setup):
    (context, extra), *_ = setup.positive
    setup.positive = [
        [context, {**extra, "start_percent": 0.0, "end_percent": 0.5}],
        [context.flip(1) * 2, {**extra, "start_percent": 0.5, "end_percent": 1.0}],
    ]


@change("CFG function")
def _cfg(setup):
    node("nodes_mahiro", "Mahiro", setup)


@change("RescaleCFG", "unet")
def _rescale(setup):
    from comfy_extras.nodes_model_advanced import RescaleCFG

    (setup.model,) = RescaleCFG().patch(setup.model, 0.7)


@change("model sampling", "unet")
def _v_prediction(setup):
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    (setup.model,) = ModelSamplingDiscrete().patch(setup.model, "v_prediction", False)


@change("model sampling shift", "flux")
def _shift(setup):
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    (setup.model,) = ModelSamplingSD3().patch(setup.model, 5.0, multiplier=1000)


@change("EasyCache")
def _easycache(setup):
    node(
        "nodes_easycache",
        "EasyCacheNode",
        setup,
        reuse_threshold=5.0,
        start_percent=0.0,
        end_percent=1.0,
        verbose=False,
    )


@change("ToMe", "unet")
def _tome(setup):
    node("nodes_tomesd", "TomePatchModel", setup, ratio=0.5)


@change("HyperTile", "unet")
def _hypertile(setup):
    torch.manual_seed(0)
    node("nodes_hypertile", "HyperTile", setup, tile_size=64, swap_size=1, max_depth=0, scale_depth=False)


@change("FreeU", "unet")
def _freeu(setup):
    node("nodes_freelunch", "FreeU_V2", setup, b1=1.3, b2=1.4, s1=0.9, s2=0.2)


@change("perturbed attention", "unet")
def _pag(setup):
    node("nodes_pag", "PerturbedAttentionGuidance", setup, scale=3.0)


@change("skipped layers", "flux")
def _slg(setup):
    node(
        "nodes_slg",
        "SkipLayerGuidanceDiT",
        setup,
        scale=3.0,
        start_percent=0.0,
        end_percent=1.0,
        double_layers="1",
        single_layers="1",
    )


@change("attention times two", "unet")
def _multiply(setup):
    node("nodes_attention_multiply", "UNetCrossAttentionMultiply", setup, q=1.0, k=1.5, v=1.5, out=1.0)


@change("no CFG")
def _no_cfg(setup):
    setup.negative = setup.positive


@change("longer prompt")
def _longer(setup):
    setup.positive = [[torch.cat([c, c.flip(1), c * 2], dim=1), extra] for c, extra in setup.positive]


def conditioning(seed: int) -> list:
    generator = torch.Generator().manual_seed(seed)
    context = torch.randn(1, 20, 48, generator=generator)
    return [[context, {"pooled_output": torch.randn(1, 32, generator=generator)}]]


def sample(setup: Setup) -> torch.Tensor:
    """The latent that ComfyUI's sampler ends with."""
    import comfy.sample

    latent = torch.zeros(1, 4, 16, 16)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(3)  # ToMe and HyperTile draw numbers of their own
    with torch.inference_mode():
        return comfy.sample.sample(
            setup.model, noise, STEPS, 4.0, "euler", "simple", setup.positive, setup.negative, latent, seed=3
        )


def strengthen(model: Any) -> None:
    """Weights as large as trained ones, so that what happens inside a block shows in the picture."""
    torch.manual_seed(0)
    for name, weight in model.diffusion_model.named_parameters():
        if weight.ndim > 1:
            gain = 4 if "to_q" in name or "to_k" in name else 1.2
            torch.nn.init.normal_(weight, std=gain * weight[0].numel() ** -0.5)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()
