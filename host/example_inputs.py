"""Example inputs for a model: what ComfyUI would pass to it, of any family; and what it calls when it gets them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import nn

from ..checks.reaching.batches import BATCHES, FindBatched, Forms, batched
from ..checks.reaching.reach import ExampleCall, FindReach, Reach, reach
from ..checks.reaching.widths import Width
from .prompt_ends import CANCEL

BATCH = 2
TOKENS = 77


@dataclass(frozen=True)
class Example:
    """Sizes of one call: latent height and width, frames of a video, whether the prompt has a mask, and batch. Where a
    mask is not ``padded``, it masks nothing, and ComfyUI does not hand it on."""

    size: int = 64
    frames: int = 5
    mask: bool = True
    batch: int = BATCH
    padded: bool = True


#: Tried in turn. Some models want latents of at least 32, some of at most 24, some make pictures only, and some take a
#: mask for a batch of one only.
EXAMPLES = (
    Example(),
    Example(batch=1),
    Example(mask=False),
    Example(frames=1),
    Example(16, frames=1),
    Example(16, 1, mask=False),
)


PREFIX = "diffusion_model."

#: What was found out, as long as the model lives.
_found: WeakKeyDictionary[nn.Module, dict[tuple, Reach]] = WeakKeyDictionary()


def replaced_parts(patcher: Any) -> dict[str, nn.Module]:
    """Modules that other nodes put in the place of parts of the diffusion model (object patches), by path in it."""
    patches = patcher.object_patches.items()
    modules = {path.removeprefix(PREFIX): value for path, value in patches if path.startswith(PREFIX)}
    return {path: value for path, value in modules.items() if isinstance(value, nn.Module)}


def find_reach(patcher: Any) -> FindReach:
    """What the diffusion model of a ModelPatcher calls: found out once for each set of broken modules, and again when
    the model is made of others."""
    model, parts = patcher.model, {f"{PREFIX}{path}": part for path, part in replaced_parts(patcher).items()}

    def find(broken: Collection[str] = ()) -> Reach:
        made_of = tuple(type(module) for module in model.modules())
        key = (frozenset(broken), made_of, tuple((path, ref(part)) for path, part in parts.items()))
        known = _found.setdefault(model, {})
        if key not in known:
            stand_ins = [f"{PREFIX}{path}" for path in broken]
            dtype = model.get_dtype_inference()
            stops = CANCEL.stops
            found = reach(model, example_calls(), dtype=dtype, replaced=parts, stand_ins=stand_ins, stops=stops)
            known[key] = found.below(PREFIX.rstrip("."))
        return known[key]

    return find


def find_batched(patcher: Any) -> FindBatched:
    """Which inputs of the diffusion model's modules carry the batch: found out by two runs on fake tensors, and by two
    more for the forms of calls without a mask."""
    model, parts = patcher.model, {f"{PREFIX}{path}": part for path, part in replaced_parts(patcher).items()}

    def find(paths: Collection[str]) -> Iterator[dict[str, Forms]]:
        watch, dtype = [f"{PREFIX}{path}" for path in paths], model.get_dtype_inference()
        for padded in (True, False):
            runs = [
                reach(model, example_calls(batch, padded), dtype=dtype, replaced=parts, watch=watch, stops=CANCEL.stops)
                for batch in BATCHES
            ]
            if all(run.reason is None for run in runs):
                yield {path: batched(f"{PREFIX}{path}", *runs) for path in paths}

    return find


def example_calls(batch: int | None = None, padded: bool = True) -> list[ExampleCall]:
    """Ways to call a ``BaseModel``, the likeliest first; with a batch of the caller's choice."""
    examples = [replace(one, padded=padded) for one in EXAMPLES]
    if batch is not None:
        examples = list(dict.fromkeys(replace(one, batch=batch) for one in examples))
    return [partial(example_call, example) for example in examples]


def example_call(example: Example, model: Any, width: Width) -> Any:
    """Calls a ``BaseModel``, or a copy of one, with fake tensors as ComfyUI's sampler calls it.

    The model's own ``extra_conds`` makes the inputs from a prompt, a pooled prompt and whatever else a text encoder
    or a node gives, so what a family adds to them is added here too.

    Args:
        width: the channels of an input by name.
    """
    latent, size = model.latent_format, example.size
    sizes = {1: (4 * size,), 2: (size, size), 3: (example.frames, size, size)}[latent.latent_dimensions]
    noise = torch.zeros(example.batch, width("latent", latent.latent_channels), *sizes)
    conds = model.extra_conds(noise=noise, device=noise.device, **conditioning(example, width, noise))
    inputs = {name: cond.process_cond(batch_size=example.batch, area=None).cond for name, cond in conds.items()}
    inputs = {name: _as_wide(value, name, width) for name, value in inputs.items()}
    if not example.padded:
        inputs.pop("attention_mask", None)
    return model._apply_model(noise, torch.ones(example.batch), transformer_options=options(example), **inputs)


def _as_wide(value: Any, name: str, width: Width) -> Any:
    """Embeddings as wide as the model wants them, where it wants them otherwise than the real one of its family."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.ndim not in (2, 3):
        return value
    wide = width(name, value.shape[-1])
    return value if wide == value.shape[-1] else value.new_zeros(*value.shape[:-1], wide)


def conditioning(example: Example, width: Width, noise: torch.Tensor) -> dict[str, Any]:
    """What text encoders and nodes put beside a prompt, in ComfyUI's words. A model takes what it knows."""
    return {
        "cross_attn": torch.zeros(1, TOKENS, width("cross_attn")),
        "pooled_output": torch.zeros(1, width("pooled_output")),
        "attention_mask": torch.ones(1, TOKENS, dtype=torch.int64) if example.mask else None,
        "conditioning_mt5xl": torch.zeros(1, 256, width("conditioning_mt5xl")),
        "attention_mask_mt5xl": torch.ones(1, 256),
        "conditioning_llama3": torch.zeros(1, 32, TOKENS, width("conditioning_llama3")),
        "conditioning_lyrics": torch.zeros(1, 20, dtype=torch.int64),
        "width": noise.shape[-1] * 8,
        "height": noise.shape[-1] * 8,
        "latent_image": torch.zeros_like(noise),
        "seed": 0,
        "prompt_type": "positive",
    }


def options(example: Example) -> dict[str, Any]:
    """The ``transformer_options`` of a step."""
    return {
        "sigmas": torch.ones(example.batch),
        "sample_sigmas": torch.tensor([1.0, 0.5, 0.0]),
        "cond_or_uncond": [*range(example.batch)],
        "uuids": [*range(example.batch)],
        "optimized_attention_override": plain_attention,
    }


def plain_attention(
    _attention: Any,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    heads: int,
    mask: Any = None,
    attn_precision: Any = None,
    skip_reshape: bool = False,
    skip_output_reshape: bool = False,
    **_kwargs: Any,
) -> torch.Tensor:
    """Attention's output, from shapes alone: kernels of other packages cannot run on fake tensors.

    q (B, T, heads × D), or (B, heads, T, D) with ``skip_reshape``. The result is (B, T, heads × D), or (B, heads, T, D)
    with ``skip_output_reshape``.
    """
    if skip_reshape:
        tokens, channels = q.shape[2], v.shape[-1]
    else:
        q, k, v = (t.flatten(2) for t in (q, k, v))
        tokens, channels = q.shape[1], q.shape[-1] // heads * v.shape[-1] // k.shape[-1]
    if skip_output_reshape:
        return q.new_empty(q.shape[0], heads, tokens, channels)
    return q.new_empty(q.shape[0], tokens, heads * channels)
