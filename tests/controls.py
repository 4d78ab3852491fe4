"""A small ControlNet of each kind that ComfyUI loads, of the host's own classes, with random weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import comfy.cldm.cldm
import comfy.cldm.dit_embedder
import comfy.cldm.mmdit
import comfy.controlnet
import comfy.latent_formats
import comfy.ldm.cascade.controlnet
import comfy.ldm.flux.controlnet
import comfy.ldm.hydit.controlnet
import comfy.ldm.qwen_image.controlnet
import comfy.ops
import comfy.t2i_adapter.adapter
import models
import torch
import vaes
from families import FAMILIES
from onediff_pack.compilers import CallSession
from onediff_pack.host.copies.control_net import model_of, with_session
from onediff_pack.status import Record
from torch import nn

CPU = torch.device("cpu")

OPERATIONS = {"operations": comfy.ops.disable_weight_init, "dtype": torch.float32, "device": CPU}


@dataclass(frozen=True)
class Control:
    """How one is made, and the family of the model that it is for. ``channels`` are those of the latent, ``wide`` the
    channels of a pooled prompt, ``conds`` what else a prompt brings. ``hint``: what becomes of the picture, which is
    latent for ``latent`` and goes through a VAE for ``vae``; then latents have an axis for frames."""

    make: Callable[[], Any]
    family: str = "SD 1.5"
    channels: int = 4
    wide: int = 0
    conds: dict[str, vaes.Shape] = field(default_factory=dict)
    hint: Literal["picture", "latent", "vae"] = "picture"

    def base(self) -> Any:
        """The model that is sampled, of ComfyUI's ``BaseModel``."""
        if self.family == "SD 1.5":
            return models.unet_patcher().model
        if self.family == "SDXL":
            return models.sdxl_patcher().model
        return FAMILIES[self.family]().patcher().model


def _cldm(**more: Any) -> nn.Module:
    config = {name: value for name, value in models.UNET.items() if name not in ("out_channels", "dtype")}
    return comfy.cldm.cldm.ControlNet(hint_channels=3, **{**config, **OPERATIONS, **more})


def _net(model: nn.Module, **more: Any) -> Any:
    return comfy.controlnet.ControlNet(_random(model), load_device=CPU, **more)


def _random(model: nn.Module, seed: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05)
        parameter.requires_grad_(False)
    return model.eval()


def lora() -> Any:
    """Low-rank parts for the layers of the model's first half, and a hint block and outputs of its own."""
    full = _random(_cldm())
    weights: dict[str, torch.Tensor] = {"lora_controlnet": torch.tensor([])}
    shared = models.unet_patcher().model.diffusion_model.state_dict()
    for name, value in full.state_dict().items():
        if name in shared and name.endswith(".weight") and value.ndim in (2, 4):
            rows, columns = value.shape[0], value[0].numel()
            stem = name.removesuffix(".weight")
            weights[f"{stem}.up"] = vaes.numbers((rows, 4)) * 0.05
            weights[f"{stem}.down"] = vaes.numbers((4, columns)) * 0.05
        elif name not in shared:
            weights[name] = value
    return comfy.controlnet.ControlLora(weights)


def _t2i() -> Any:
    model = comfy.t2i_adapter.adapter.Adapter(
        cin=64 * 3, channels=[32, 64, 64, 64], nums_rb=2, ksize=1, sk=True, xl=False
    )
    return comfy.controlnet.T2IAdapter(_random(model), 3, 8, "nearest-exact", device=CPU)


def _t2i_light() -> Any:
    model = comfy.t2i_adapter.adapter.Adapter_light(cin=64 * 3, channels=[32, 64, 64, 64], nums_rb=4)
    return comfy.controlnet.T2IAdapter(_random(model), 3, 8, "nearest-exact", device=CPU)


def _flux() -> Any:
    config = {name: value for name, value in FAMILIES["Flux"]().unet.items() if name != "dtype"}
    model = comfy.ldm.flux.controlnet.ControlNetFlux(**{**config, "in_channels": 16}, **OPERATIONS)
    return _net(model, extra_conds=["y", "guidance"])


def _flux_union() -> Any:
    config = {name: value for name, value in FAMILIES["Flux"]().unet.items() if name != "dtype"}
    config |= {"in_channels": 16, "latent_input": True, "control_latent_channels": 16, "num_union_modes": 3}
    model = comfy.ldm.flux.controlnet.ControlNetFlux(**config, **OPERATIONS)
    control = _net(model, compression_ratio=1, extra_conds=["y", "guidance"])
    control.set_extra_arg("control_type", [1])
    return control


def _sd3() -> Any:
    config = {name: value for name, value in FAMILIES["SD 3"]().unet.items() if name != "dtype"}
    model = comfy.cldm.mmdit.ControlNet(num_blocks=2, control_latent_channels=16, **config, **OPERATIONS)
    return _net(model, compression_ratio=1)


def _sd35(double: bool) -> Any:
    """As wide as SD 3's: it takes the model's own first layer."""
    sizes: dict[str, Any] = {
        "img_size": None,
        "patch_size": 2,
        "in_chans": 16,
        "attention_head_dim": 64,
        "num_attention_heads": 3,
    }
    sizes |= {"adm_in_channels": 40, "num_layers": 3, "main_model_double": 3, "double_y_emb": double}
    model = comfy.cldm.dit_embedder.ControlNetEmbedder(**sizes, **OPERATIONS)
    return comfy.controlnet.ControlNetSD35(_random(model), load_device=CPU, compression_ratio=1)


def _hunyuan_dit() -> Any:
    sizes: dict[str, Any] = {"hidden_size": 64, "num_heads": 2, "text_states_dim": 48, "text_states_dim_t5": 64}
    sizes |= {"text_len": 20, "text_len_t5": 32, "input_size": None}
    model = comfy.ldm.hydit.controlnet.HunYuanControlNet(**sizes, **OPERATIONS)
    conds = ["text_embedding_mask", "encoder_hidden_states_t5", "text_embedding_mask_t5"]
    return _net(model, compression_ratio=1, extra_conds=conds)


def _qwen() -> Any:
    config = FAMILIES["Qwen-Image"]().unet
    model = comfy.ldm.qwen_image.controlnet.QwenImageControlNetModel(**config, **OPERATIONS)
    return _net(model, compression_ratio=1, latent_format=comfy.latent_formats.Wan21(), extra_conds=[])


def _qwen_fun() -> Any:
    sizes = {"inner_dim": 64, "num_attention_heads": 2, "attention_head_dim": 32}
    model = comfy.ldm.qwen_image.controlnet.QwenImageFunControlNetModel(**sizes, **OPERATIONS)
    given: dict[str, Any] = {"compression_ratio": 1, "latent_format": comfy.latent_formats.Wan21(), "extra_conds": []}
    return comfy.controlnet.QwenFunControlNet(_random(model), load_device=CPU, **given)


def _cascade(**sizes: Any) -> Any:
    """Its first half is an EfficientNet as large as the original, with torchvision's own random weights: of others'
    little would come through all of its layers."""
    torch.manual_seed(3)
    model = comfy.ldm.cascade.controlnet.ControlNet(c_proj=32, proj_blocks=[0, 4, 8], **sizes)
    model = model.eval().requires_grad_(False)
    return comfy.controlnet.T2IAdapter(model, model.input_channels, 32, "bilinear", device=CPU)


CONTROLS: dict[str, Control] = {
    "ControlNet": Control(lambda: _net(_cldm())),
    "ControlLoRA": Control(lora),
    "T2I-Adapter": Control(_t2i),
    "T2I-Adapter light": Control(_t2i_light),
    "Flux": Control(_flux, "Flux", 16, 32),
    "Flux, union": Control(_flux_union, "Flux", 16, 32, hint="latent"),
    "SD 3": Control(_sd3, "SD 3", 16, 40, hint="latent"),
    "SD 3.5": Control(lambda: _sd35(False), "SD 3", 16, 40, hint="latent"),
    "SD 3.5, large": Control(lambda: _sd35(True), "SD 3", 16, 40, hint="latent"),
    "Hunyuan DiT": Control(
        _hunyuan_dit,
        "Hunyuan DiT",
        conds={"text_embedding_mask": (20,), "encoder_hidden_states_t5": (32, 64), "text_embedding_mask_t5": (32,)},
        hint="latent",
    ),
    "Qwen": Control(_qwen, "Qwen-Image", 16, hint="vae"),
    "Qwen, Fun": Control(_qwen_fun, "Qwen-Image", 16, hint="vae"),
    "Stable Cascade": Control(_cascade, "Stable Cascade", 16),
}

#: A ControlNet of one level without attention in its middle, for what does not depend on the kind: it is traced in half
#: the time. It fits no chain with those above.
SMALL = Control(
    lambda: _net(_cldm(num_res_blocks=[1], channel_mult=(1,), transformer_depth=[1], transformer_depth_middle=-1))
)


def session_on(control: Any, **settings: Any) -> tuple[CallSession, Record]:
    """A session as OneDiff Compile ControlNet makes one: see ``vaes.session_on``."""
    session, record = vaes.session_on(model_of(control), **settings)
    session.title = "OneDiff Compile ControlNet"
    return session, record


def applied(
    kind: Control,
    controls: Sequence[Any],
    size: int = 16,
    strength: float = 1.0,
    percents: tuple[float, float] = (0.0, 1.0),
) -> Any:
    """The last of a chain of ControlNets, copied and given their hints as Apply ControlNet does."""
    hint = vaes.numbers((1, kind.channels if kind.hint == "latent" else 3, size * 8, size * 8), 5)
    vae = vaes.wan_vae() if kind.hint == "vae" else None
    chain = None
    for control in controls:
        own = control.copy().set_cond_hint(hint, strength, percents, vae)
        chain = own.set_previous_controlnet(chain)
    assert chain is not None
    return chain


def sampled(
    kind: Control, base: Any, controls: Sequence[Any], size: int = 16, steps: int = 2, **how: Any
) -> list[dict[str, list[torch.Tensor | None]]]:
    """What a chain of ControlNets gives in each step of a sampling. ``how``: its strength and range."""
    return run(kind, base, applied(kind, controls, size, **how), size, steps)


def run(
    kind: Control, base: Any, chain: Any, size: int = 16, steps: int = 2, stop: Callable[[], None] = lambda: None
) -> list[dict[str, list[torch.Tensor | None]]]:
    """The same of one that is applied, as ComfyUI's sampler asks for it: before a sampling it is told of each prompt
    that it stands in, and afterwards that it is over, unless that failed. ``stop`` may raise before each step."""
    frames = [1] if kind.hint == "vae" else []
    x = vaes.numbers((2, kind.channels, *frames, size, size))
    cond = {"c_crossattn": vaes.numbers((2, 20, 48), 2)}
    if kind.wide:
        cond |= {"y": vaes.numbers((2, kind.wide), 3), "guidance": torch.full((2,), 3.5)}
    for number, (name, shape) in enumerate(kind.conds.items(), start=7):
        cond[name] = vaes.numbers((2, *shape), number)
    found = []
    with torch.inference_mode():
        for _prompt in ("positive", "negative"):
            chain.pre_run(base, base.model_sampling.percent_to_sigma)
        for number in range(steps):
            stop()
            sigma = torch.full((2,), float(base.model_sampling.percent_to_sigma(number / steps)))
            given = chain.get_control(x, sigma, cond, 2, {})
            kept = {name: [one if one is None else one.clone() for one in outs] for name, outs in (given or {}).items()}
            found.append(kept)
        chain.cleanup()
    return found


def difference(ours: Sequence[dict], theirs: Sequence[dict]) -> float:
    """The largest relative difference of two of those."""
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            for one, other in zip(a[name], b[name], strict=True):
                assert (one is None) == (other is None)
                if one is not None:
                    worst = max(worst, ((one - other).norm() / other.norm().clamp_min(1e-12)).item())
    return worst


__all__ = [
    "CONTROLS",
    "SMALL",
    "Control",
    "applied",
    "difference",
    "lora",
    "run",
    "sampled",
    "session_on",
    "with_session",
]
