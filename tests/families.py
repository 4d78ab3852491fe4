"""A small model of every family that ComfyUI knows, of the host's own class, with random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import comfy.model_patcher
import comfy.ops
import comfy.supported_models as supported
import models
import pytest
import torch

WIDTH = 48
"""Channels of a prompt, where the family lets them be chosen."""

Inputs = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """Sizes of one model call: latent height and width, batch, and tokens of the prompt."""

    height: int = 16
    width: int = 16
    batch: int = 2
    tokens: int = 77
    seed: int = 1

    def noise(self, *shape: int) -> torch.Tensor:
        """Random numbers with the batch in front, the same ones for the same call."""
        generator = torch.Generator().manual_seed(self.seed + sum(shape))
        return torch.randn(self.batch, *shape, generator=generator)

    def image(self, channels: int) -> torch.Tensor:
        """Latents of a picture."""
        return self.noise(channels, self.height, self.width)

    def video(self, channels: int, frames: int = 3) -> torch.Tensor:
        """Latents of a video."""
        return self.noise(channels, frames, self.height, self.width)

    def prompt(self, channels: int = WIDTH) -> torch.Tensor:
        """What a text encoder gives."""
        return self.noise(self.tokens, channels)


@dataclass(frozen=True)
class Family:
    """How to build a model, and what it is called with besides the noise level."""

    config: type
    unet: dict[str, Any]
    inputs: Callable[[Call], Inputs]

    def patcher(self, seed: int = 0) -> comfy.model_patcher.ModelPatcher:
        """The model with random weights in a ModelPatcher."""
        torch.manual_seed(seed)
        config = self.config({**self.unet, "dtype": torch.float32})
        config.custom_operations = comfy.ops.disable_weight_init
        model = config.get_model({})
        for tensor in model.diffusion_model.state_dict().values():
            if tensor.is_floating_point():
                torch.nn.init.normal_(tensor, std=0.05)
        model.requires_grad_(False)
        return comfy.model_patcher.ModelPatcher(model.eval(), torch.device("cpu"), torch.device("cpu"))

    def step(self, patcher: comfy.model_patcher.ModelPatcher, call: Call, **options: Any) -> torch.Tensor:
        """One model call as the sampler makes it, with the patcher's wrappers and options in effect."""
        with torch.inference_mode():
            inputs = self.inputs(call)
        x = inputs.pop("x")
        sigmas = torch.full((x.shape[0],), 0.5)
        transformer_options = {
            **patcher.model_options["transformer_options"],
            "wrappers": patcher.wrappers,
            "callbacks": patcher.callbacks,
            "sigmas": sigmas,
            "sample_sigmas": torch.tensor([1.0, 0.5, 0.0]),
            "cond_or_uncond": [0, 1],
            "uuids": [0, 1],
            **options,
        }
        with torch.inference_mode():
            return patcher.model.apply_model(x, sigmas, transformer_options=transformer_options, **inputs)


FAMILIES: dict[str, Callable[[], Family]] = {}

#: Those of an ordinary run, most of the ways in which models are built and called. Flux 2 has the blocks of Flux,
#: Z-Image those of Lumina 2.
ORDINARY = ("SD 1.5", "SD 3", "Flux", "Lumina 2", "Qwen-Image", "Wan 2.1", "Hunyuan DiT")


def some(names: Iterable[str] | None = None, ordinary: Iterable[str] = ORDINARY) -> list[Any]:
    """Families as parameters of a test, all unless ``names`` says which; what is not ``ordinary`` comes with
    ``scripts/test.py --all``."""
    chosen = FAMILIES if names is None else names
    return [pytest.param(name, marks=() if name in ordinary else pytest.mark.long) for name in chosen]


def family(name: str) -> Callable[[Callable[[], Family]], Callable[[], Family]]:
    """Registers the function that describes a family."""

    def register(describe: Callable[[], Family]) -> Callable[[], Family]:
        FAMILIES[name] = describe
        return describe

    return register


def _small(config: type, **extra: Any) -> Any:
    """A config of the host with other values where it insists on those of the real model."""
    return type(config.__name__, (config,), {"unet_extra_config": extra})


SMALL_HEADS = {"num_heads": -1, "num_head_channels": 16}


def _unet(**changes: Any) -> dict[str, Any]:
    return {**models.UNET, "channel_mult": [1, 1], **changes}


@family("SD 1.5")
def sd15() -> Family:
    return Family(supported.SD15, models.UNET, lambda c: {"x": c.image(4), "c_crossattn": c.prompt()})


@family("SD 2, v-prediction")
def sd2() -> Family:
    config = _small(supported.SD20, **SMALL_HEADS)
    config.model_type = lambda self, state_dict, prefix="": comfy.model_base.ModelType.V_PREDICTION
    unet = _unet(use_linear_in_transformer=True)
    return Family(config, unet, lambda c: {"x": c.image(4), "c_crossattn": c.prompt()})


def _with_pooled(c: Call) -> Inputs:
    return {"x": c.image(4), "c_crossattn": c.prompt(), "y": c.noise(40)}


@family("SDXL")
def sdxl() -> Family:
    unet = _unet(
        num_classes="sequential",
        adm_in_channels=40,
        use_linear_in_transformer=True,
        transformer_depth=[0, 2],
        transformer_depth_middle=2,
        transformer_depth_output=[0, 0, 2, 2],
    )
    return Family(_small(supported.SDXL, **SMALL_HEADS), unet, _with_pooled)


@family("SDXL refiner")
def sdxl_refiner() -> Family:
    unet = _unet(
        num_classes="sequential",
        adm_in_channels=40,
        use_linear_in_transformer=True,
        num_res_blocks=[1, 1, 1],
        channel_mult=[1, 1, 1],
        transformer_depth=[0, 1, 0],
        transformer_depth_middle=1,
        transformer_depth_output=[0, 0, 1, 1, 0, 0],
    )
    return Family(_small(supported.SDXLRefiner, **SMALL_HEADS), unet, _with_pooled)


SVD_FRAMES = 3


@family("SVD")
def svd() -> Family:
    unet = _unet(
        in_channels=8,
        num_res_blocks=[2],
        channel_mult=[1],
        transformer_depth=[1, 1],
        transformer_depth_output=[1, 1, 1],
        num_classes="sequential",
        adm_in_channels=40,
        use_linear_in_transformer=True,
        use_temporal_attention=True,
        use_temporal_resblock=True,
        extra_ff_mix_layer=True,
        use_spatial_context=True,
        merge_strategy="learned_with_images",
        merge_factor=0.0,
        video_kernel_size=[3, 1, 1],
        disable_temporal_crossattention=False,
    )

    def inputs(c: Call) -> Inputs:
        frames = Call(c.height, c.width, c.batch * SVD_FRAMES, c.tokens, c.seed)
        return {
            "x": frames.image(4),
            "c_concat": frames.image(4),
            "c_crossattn": frames.noise(1, WIDTH),
            "y": frames.noise(40),
            "num_video_frames": SVD_FRAMES,
        }

    return Family(_small(supported.SVD_img2vid, **SMALL_HEADS), unet, inputs)


@family("SD 3")
def sd3() -> Family:
    unet = {
        "in_channels": 16,
        "out_channels": 16,
        "patch_size": 2,
        "depth": 3,
        "input_size": None,
        "adm_in_channels": 40,
        "context_embedder_config": {
            "target": "torch.nn.Linear",
            "params": {"in_features": WIDTH, "out_features": 192},
        },
        "num_patches": 24 * 24,
        "pos_embed_max_size": 24,
        "pos_embed_scaling_factor": None,
        "qk_norm": "rms",
        "x_block_self_attn_layers": [0, 1],
    }
    return Family(supported.SD3, unet, lambda c: {"x": c.image(16), "c_crossattn": c.prompt(), "y": c.noise(40)})


@family("Flux")
def flux() -> Family:
    def inputs(c: Call) -> Inputs:
        return {"x": c.image(4), "c_crossattn": c.prompt(), "y": c.noise(32), "guidance": torch.full((c.batch,), 3.5)}

    return Family(supported.Flux, {**models.FLUX, "guidance_embed": True}, inputs)


@family("Flux 2")
def flux2() -> Family:
    unet = {
        **models.FLUX,
        "image_model": "flux2",
        "in_channels": 16,
        "out_channels": 16,
        "vec_in_dim": None,
        "axes_dim": [8, 8, 8, 8],
        "theta": 2000,
        "mlp_ratio": 3.0,
        "patch_size": 1,
        "global_modulation": True,
        "mlp_silu_act": True,
        "qkv_bias": False,
        "ops_bias": False,
        "guidance_embed": True,
        "txt_ids_dims": [3],
        "default_ref_method": "index",
        "ref_index_scale": 10.0,
    }

    def inputs(c: Call) -> Inputs:
        return {"x": c.image(16), "c_crossattn": c.prompt(), "guidance": torch.full((c.batch,), 3.5)}

    return Family(supported.Flux2, unet, inputs)


CHROMA = {
    "image_model": "chroma",
    "in_channels": 16,
    "out_channels": 16,
    "context_in_dim": WIDTH,
    "hidden_size": 64,
    "mlp_ratio": 4.0,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 3,
    "axes_dim": [8, 12, 12],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "in_dim": 64,
    "out_dim": 64,
    "hidden_dim": 32,
    "n_layers": 2,
    "txt_ids_dims": [],
    "vec_in_dim": None,
}


def _chroma_inputs(channels: int) -> Callable[[Call], Inputs]:
    return lambda c: {"x": c.image(channels), "c_crossattn": c.prompt(), "guidance": torch.zeros(c.batch)}


@family("Chroma")
def chroma() -> Family:
    return Family(supported.Chroma, CHROMA, _chroma_inputs(4))


@family("Chroma Radiance")
def chroma_radiance() -> Family:
    unet = {
        **CHROMA,
        "image_model": "chroma_radiance",
        "in_channels": 3,
        "out_channels": 3,
        "patch_size": 2,
        "nerf_hidden_size": 16,
        "nerf_mlp_ratio": 2,
        "nerf_depth": 2,
        "nerf_max_freqs": 4,
        "nerf_tile_size": 512,
        "nerf_final_head_type": "conv",
        "nerf_embedder_dtype": torch.float32,
        "use_x0": False,
        "use_sequential_txt_ids": False,
    }
    return Family(supported.ChromaRadiance, unet, _chroma_inputs(3))


LUMINA = {
    "image_model": "lumina2",
    "patch_size": 2,
    "in_channels": 4,
    "dim": 64,
    "cap_feat_dim": WIDTH,
    "n_layers": 2,
    "qk_norm": True,
    "n_heads": 2,
    "n_kv_heads": 1,
    "multiple_of": 16,
    "axes_dims": [8, 12, 12],
    "axes_lens": [300, 512, 512],
    "rope_theta": 10000.0,
    "ffn_dim_multiplier": 2.0,
}


def _lumina_inputs(c: Call) -> Inputs:
    return {"x": c.image(4), "c_crossattn": c.prompt(), "num_tokens": c.tokens}


@family("Lumina 2")
def lumina2() -> Family:
    return Family(supported.Lumina2, LUMINA, _lumina_inputs)


@family("Z-Image")
def z_image() -> Family:
    unet = {
        **LUMINA,
        "dim": 256,
        "n_kv_heads": 2,
        "axes_dims": [32, 48, 48],
        "rope_theta": 256.0,
        "z_image_modulation": True,
        "time_scale": 1000.0,
        "pad_tokens_multiple": 32,
    }
    return Family(supported.ZImage, unet, _lumina_inputs)


@family("Qwen-Image")
def qwen_image() -> Family:
    unet = {
        "image_model": "qwen_image",
        "in_channels": 64,
        "num_layers": 2,
        "attention_head_dim": 32,
        "num_attention_heads": 2,
        "joint_attention_dim": WIDTH,
        "axes_dims_rope": (8, 12, 12),
    }
    return Family(supported.QwenImage, unet, lambda c: {"x": c.video(16, 1), "c_crossattn": c.prompt()})


WAN = {
    "image_model": "wan2.1",
    "model_type": "t2v",
    "dim": 64,
    "in_dim": 16,
    "out_dim": 16,
    "text_dim": WIDTH,
    "num_heads": 2,
    "ffn_dim": 96,
    "num_layers": 2,
    "patch_size": (1, 2, 2),
    "freq_dim": 32,
    "window_size": (-1, -1),
    "qk_norm": True,
    "cross_attn_norm": True,
    "eps": 1e-6,
}


@family("Wan 2.1")
def wan21() -> Family:
    return Family(supported.WAN21_T2V, WAN, lambda c: {"x": c.video(16), "c_crossattn": c.prompt()})


@family("Wan 2.1 image to video")
def wan21_i2v() -> Family:
    def inputs(c: Call) -> Inputs:
        return {
            "x": c.video(16),
            "c_concat": c.video(20),
            "c_crossattn": c.prompt(),
            "clip_fea": c.noise(257, 1280),
        }

    return Family(supported.WAN21_I2V, {**WAN, "model_type": "i2v", "in_dim": 36}, inputs)


@family("Wan 2.1 VACE")
def wan21_vace() -> Family:
    def inputs(c: Call) -> Inputs:
        return {
            "x": c.video(16),
            "c_crossattn": c.prompt(),
            "vace_context": c.noise(1, 96, 3, c.height, c.width),
            "vace_strength": [1.0],
        }

    unet = {**WAN, "model_type": "vace", "vace_layers": 2, "vace_in_dim": 96}
    return Family(supported.WAN21_Vace, unet, inputs)


@family("Wan 2.2")
def wan22() -> Family:
    unet = {**WAN, "in_dim": 48, "out_dim": 48}
    return Family(supported.WAN22_T2V, unet, lambda c: {"x": c.video(48), "c_crossattn": c.prompt()})


HUNYUAN_VIDEO = {
    "image_model": "hunyuan_video",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": [1, 2, 2],
    "vec_in_dim": 32,
    "context_in_dim": WIDTH,
    "hidden_size": 64,
    "mlp_ratio": 4.0,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": [8, 12, 12],
    "theta": 256,
    "qkv_bias": True,
    "guidance_embed": True,
    "byt5": False,
    "meanflow": False,
    "use_cond_type_embedding": False,
    "vision_in_dim": None,
    "meanflow_sum": False,
}


@family("HunyuanVideo")
def hunyuan_video() -> Family:
    def inputs(c: Call) -> Inputs:
        return {
            "x": c.video(16),
            "c_crossattn": c.prompt(),
            "y": c.noise(32),
            "guidance": torch.full((c.batch,), 6.0),
        }

    return Family(supported.HunyuanVideo, HUNYUAN_VIDEO, inputs)


LTXV = {
    "image_model": "ltxv",
    "in_channels": 16,
    "num_layers": 2,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "cross_attention_dim": 64,
    "caption_channels": WIDTH,
}


@family("LTXV")
def ltxv() -> Family:
    def inputs(c: Call) -> Inputs:
        mask = torch.ones(c.batch, c.tokens, dtype=torch.int64)
        mask[:, c.tokens - 5 :] = 0
        return {"x": c.video(16), "c_crossattn": c.prompt(), "attention_mask": mask, "frame_rate": 25}

    return Family(supported.LTXV, LTXV, inputs)


COSMOS = {
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": 64,
    "num_blocks": 2,
    "num_heads": 2,
    "crossattn_emb_channels": WIDTH,
    "concat_padding_mask": True,
    "pos_emb_cls": "rope3d",
    "pos_emb_interpolation": "crop",
    "use_adaln_lora": True,
    "adaln_lora_dim": 16,
    "rope_h_extrapolation_ratio": 1.0,
    "rope_w_extrapolation_ratio": 1.0,
    "rope_t_extrapolation_ratio": 2.0,
}


def _cosmos_inputs(c: Call) -> Inputs:
    return {"x": c.video(16), "c_crossattn": c.prompt(), "fps": 24}


@family("Cosmos")
def cosmos() -> Family:
    unet = {
        **COSMOS,
        "image_model": "cosmos",
        "block_config": "FA-CA-MLP",
        "block_x_format": "THWBD",
        "pos_emb_learnable": False,
        "affline_emb_norm": True,
        "extra_per_block_abs_pos_emb": True,
        "extra_per_block_abs_pos_emb_type": "learnable",
    }
    return Family(supported.CosmosT2V, unet, _cosmos_inputs)


@family("Cosmos Predict 2")
def cosmos_predict2() -> Family:
    unet = {
        **COSMOS,
        "image_model": "cosmos_predict2",
        "pos_emb_learnable": True,
        "extra_per_block_abs_pos_emb": False,
        "min_fps": 1,
        "max_fps": 30,
        "rope_enable_fps_modulation": False,
    }
    return Family(supported.CosmosT2IPredict2, unet, _cosmos_inputs)


@family("HiDream")
def hidream() -> Family:
    unet = {
        "image_model": "hidream",
        "attention_head_dim": 32,
        "axes_dims_rope": [16, 8, 8],
        "caption_channels": [WIDTH, WIDTH],
        "max_resolution": [128, 128],
        "in_channels": 16,
        "llama_layers": [0, 1, 1, 1],
        "num_attention_heads": 2,
        "num_routed_experts": 4,
        "num_activated_experts": 2,
        "num_layers": 2,
        "num_single_layers": 2,
        "out_channels": 16,
        "patch_size": 2,
        "text_emb_dim": 32,
    }

    def inputs(c: Call) -> Inputs:
        return {
            "x": c.image(16),
            "c_crossattn": c.prompt(),
            "encoder_hidden_states_llama3": c.noise(2, c.tokens, WIDTH),
            "y": c.noise(32),
        }

    return Family(supported.HiDream, unet, inputs)


PIXART = {
    "num_heads": 2,
    "patch_size": 2,
    "hidden_size": 96,
    "in_channels": 4,
    "depth": 2,
    "caption_channels": WIDTH,
    "model_max_length": 300,
    "input_size": 64,
    "pe_interpolation": 1,
}


def _pixart_inputs(c: Call) -> Inputs:
    """Its position table needs pictures of more than 32 latents."""
    return {"x": c.noise(4, 3 * c.height, 3 * c.width), "c_crossattn": c.prompt()}


@family("PixArt alpha")
def pixart_alpha() -> Family:
    unet = {**PIXART, "image_model": "pixart_alpha", "micro_condition": True}
    return Family(supported.PixArtAlpha, unet, _pixart_inputs)


@family("PixArt sigma")
def pixart_sigma() -> Family:
    unet = {**PIXART, "image_model": "pixart_sigma", "micro_condition": False}
    return Family(supported.PixArtSigma, unet, _pixart_inputs)


@family("AuraFlow")
def aura_flow() -> Family:
    unet = {
        "max_seq": 16 * 16,
        "cond_seq_dim": WIDTH,
        "n_double_layers": 2,
        "n_layers": 4,
        "dim": 64,
        "global_conddim": 64,
        "n_heads": 2,
    }
    return Family(supported.AuraFlow, unet, lambda c: {"x": c.image(4), "c_crossattn": c.prompt()})


@family("Hunyuan DiT")
def hunyuan_dit() -> Family:
    unet = {
        "image_model": "hydit",
        "depth": 4,
        "hidden_size": 64,
        "num_heads": 2,
        "text_states_dim": WIDTH,
        "text_states_dim_t5": 64,
        "text_len_t5": 32,
    }

    def inputs(c: Call) -> Inputs:
        return {
            "x": c.image(4),
            "c_crossattn": c.prompt(),
            "text_embedding_mask": torch.ones(c.batch, c.tokens),
            "encoder_hidden_states_t5": c.noise(32, 64),
            "text_embedding_mask_t5": torch.ones(c.batch, 32),
            "image_meta_size": torch.ones(c.batch, 6),
        }

    return Family(supported.HunyuanDiT, unet, inputs)


@family("ACE-Step")
def ace_step() -> Family:
    unet = {
        "audio_model": "ace",
        "attention_head_dim": 64,
        "in_channels": 8,
        "inner_dim": 256,
        "max_height": 16,
        "max_position": 4096,
        "max_width": 4096,
        "mlp_ratio": 2.5,
        "num_attention_heads": 4,
        "num_layers": 2,
        "out_channels": 8,
        "patch_size": [16, 1],
        "rope_theta": 1000000.0,
        "speaker_embedding_dim": 512,
        "text_embedding_dim": WIDTH,
        "ssl_encoder_depths": [8, 8],
        "ssl_latent_dims": [16, 16],
        "ssl_names": ["mert", "m-hubert"],
        "lyric_encoder_vocab_size": 64,
        "lyric_hidden_size": 1024,
    }

    def inputs(c: Call) -> Inputs:
        return {
            "x": c.noise(8, 16, c.height * c.width // 4),
            "c_crossattn": c.prompt(),
            "lyric_token_idx": torch.ones(c.batch, 20, dtype=torch.int64),
            "speaker_embeds": torch.zeros(c.batch, 512),
            "lyrics_strength": 1.0,
        }

    return Family(supported.ACEStep, unet, inputs)


@family("CogVideoX")
def cogvideox() -> Family:
    unet = {
        "image_model": "cogvideox",
        "num_attention_heads": 2,
        "attention_head_dim": 64,
        "time_embed_dim": 32,
        "text_embed_dim": WIDTH,
        "num_layers": 2,
        "in_channels": 16,
        "use_rotary_positional_embeddings": True,
    }
    return Family(supported.CogVideoX_T2V, unet, lambda c: {"x": c.video(16), "c_crossattn": c.prompt()})


@family("Kandinsky 5")
def kandinsky5() -> Family:
    unet = {
        "image_model": "kandinsky5",
        "model_dim": 64,
        "axes_dims": (8, 12, 12),
        "time_dim": 32,
        "ff_dim": 96,
        "visual_embed_dim": 64,
        "in_text_dim": WIDTH,
        "in_text_dim2": 32,
        "num_text_blocks": 2,
        "num_visual_blocks": 2,
    }

    def inputs(c: Call) -> Inputs:
        return {"x": c.video(16, 1), "c_crossattn": c.prompt(), "y": c.noise(32)}

    return Family(supported.Kandinsky5Image, unet, inputs)


@family("OmniGen 2")
def omnigen2() -> Family:
    unet = {
        "image_model": "omnigen2",
        "axes_dim_rope": [8, 12, 12],
        "axes_lens": [1024, 256, 256],
        "hidden_size": 64,
        "in_channels": 16,
        "multiple_of": 16,
        "num_attention_heads": 2,
        "num_kv_heads": 1,
        "num_layers": 2,
        "num_refiner_layers": 2,
        "text_feat_dim": WIDTH,
        "timestep_scale": 1000.0,
    }

    def inputs(c: Call) -> Inputs:
        return {"x": c.image(16), "c_crossattn": c.prompt(), "num_tokens": c.tokens}

    return Family(supported.Omnigen2, unet, inputs)


@family("ERNIE-Image")
def ernie_image() -> Family:
    unet = {
        "image_model": "ernie",
        "hidden_size": 64,
        "num_attention_heads": 2,
        "num_layers": 2,
        "ffn_hidden_size": 96,
        "in_channels": 16,
        "out_channels": 16,
        "text_in_dim": WIDTH,
        "rope_axes_dim": (8, 12, 12),
    }
    return Family(supported.ErnieImage, unet, lambda c: {"x": c.image(16), "c_crossattn": c.prompt()})


@family("Krea 2")
def krea2() -> Family:
    unet = {
        "image_model": "krea2",
        "features": 64,
        "txtdim": 32,
        "heads": 2,
        "kvheads": 1,
        "multiplier": 2,
        "layers": 2,
        "txtlayers": 3,
        "txtheads": 2,
        "txtkvheads": 2,
    }
    return Family(supported.Krea2, unet, lambda c: {"x": c.image(16), "c_crossattn": c.prompt(96)})


@family("JoyImage")
def joy_image() -> Family:
    config = _small(supported.JoyImage, theta=10000, rope_dim_list=[8, 12, 12])
    unet = {"image_model": "joyimage", "hidden_size": 64, "num_attention_heads": 2, "text_dim": WIDTH, "num_layers": 2}
    return Family(config, unet, lambda c: {"x": c.video(16, 1), "c_crossattn": c.prompt()})


@family("Stable Cascade")
def stable_cascade() -> Family:
    unet = {
        "stable_cascade_stage": "c",
        "c_r": 16,
        "c_cond": 32,
        "c_hidden": [32],
        "nhead": [2],
        "blocks": [[1], [1]],
        "block_repeat": [[1], [1]],
        "level_config": ["CTA"],
        "switch_level": [],
        "c_clip_text": WIDTH,
        "c_clip_text_pooled": 32,
        "c_clip_img": 32,
    }

    def inputs(c: Call) -> Inputs:
        return {
            "x": c.image(16),
            "clip_text": c.prompt(),
            "clip_text_pooled": c.noise(1, 32),
            "clip_img": c.noise(1, 32),
            "sca": torch.zeros(c.batch),
            "crp": torch.zeros(c.batch),
        }

    return Family(supported.Stable_Cascade_C, unet, inputs)


@family("Ideogram 4")
def ideogram4() -> Family:
    config = _small(
        supported.Ideogram4,
        num_attention_heads=2,
        attention_head_dim=32,
        intermediate_size=96,
        adaln_dim=32,
        llm_features_dim=WIDTH,
        rope_theta=5000000,
        mrope_section=[6, 5, 5],
        norm_eps=1e-5,
    )
    unet = {"image_model": "ideogram4", "in_channels": 128, "num_layers": 2}
    return Family(config, unet, lambda c: {"x": c.image(128), "c_crossattn": c.prompt()})
