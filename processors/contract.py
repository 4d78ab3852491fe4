"""What a processor is, and the limits it states.

A *kernel* processor takes the place of ComfyUI's attention function: it is given q, k and v. A *module* processor takes
the place of a whole attention module: it is given the module and its hidden states, as diffusers' processors are. A
*stand-in*, which is called as the attention module itself, is made a module processor (authored/adapt.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import nn

from .elsewhere import CallKind

Level = Literal["kernel", "module"]

MaskKind = Literal["bool", "additive"]

HALF = frozenset({torch.float16, torch.bfloat16})


@dataclass(frozen=True)
class Unsupported:
    """One reason why a processor cannot be used at a place. ``fix`` is what would change that, "run the model on cuda";
    None where nothing would."""

    why: str
    fix: str | None = None


def remedy(reasons: Sequence[Unsupported]) -> str:
    """What to do about all of these reasons, as a sentence."""
    fixes = [reason.fix for reason in reasons if reason.fix is not None]
    if len(fixes) < len(reasons):
        return "Use sdpa at these places."
    both = " and ".join(fixes)
    return f"{both[:1].upper()}{both[1:]}, or use sdpa."


@dataclass(frozen=True)
class Limits:
    """What a processor can be used for. None means "any".

    ``capability`` is the least compute capability of a CUDA device: (8, 0) is Ampere. ``masks`` are the kinds of masks
    that it takes, ``gqa`` whether k and v may have fewer heads than q: a `Kernel` is handed what it takes.
    """

    devices: frozenset[str] | None = None
    dtypes: frozenset[torch.dtype] | None = None
    max_head_dim: int | None = None
    head_dims: frozenset[int] | None = None
    capability: tuple[int, int] | None = None
    masks: frozenset[MaskKind] = frozenset({"bool", "additive"})
    gqa: bool = True

    def not_supported_reasons(
        self, device: torch.device, dtype: torch.dtype, head_dim: int | None
    ) -> list[Unsupported]:
        """Every reason why it cannot be used here; an empty list means that it can."""
        reasons = []
        if self.devices is not None and device.type not in self.devices:
            known = sorted(self.devices)
            why = f"device {device.type} is not among {', '.join(known)}"
            reasons.append(Unsupported(why, f"run the model on {' or '.join(known)}"))
        elif self.capability is not None and device.type == "cuda" and (found := _capability(device)) < self.capability:
            why = f"compute capability {_dotted(found)} < {_dotted(self.capability)}, the least that it supports"
            reasons.append(Unsupported(why, "use a newer GPU"))
        if self.dtypes is not None and dtype not in self.dtypes:
            names = sorted(str(d).removeprefix("torch.") for d in self.dtypes)
            why = f"dtype {str(dtype).removeprefix('torch.')} is not among {', '.join(names)}"
            reasons.append(Unsupported(why, f"load the model in {' or '.join(names)}"))
        if self.max_head_dim is not None and head_dim is not None and head_dim > self.max_head_dim:
            why = f"head size {head_dim} > {self.max_head_dim}, the most that it supports"
            reasons.append(Unsupported(why))
        if self.head_dims is not None and head_dim is not None and head_dim not in self.head_dims:
            sizes = ", ".join(map(str, sorted(self.head_dims)))
            reasons.append(Unsupported(f"head size {head_dim} is not among {sizes}"))
        return reasons


def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"


class Processor(nn.Module):
    """Base of all processors. ``level`` and ``limits`` are declared on the class.

    ``left`` are kinds of calls that the check saw it fail in: they go to PyTorch's attention. ``as_operator``: it was
    seen that no graph can hold it, and that an operator can. ``approximate``: what it computes differs from attention
    by more than rounding.
    """

    level: ClassVar[Level]
    limits: ClassVar[Limits] = Limits()
    left: tuple[CallKind, ...] = ()
    as_operator: bool = False
    approximate: ClassVar[bool] = False

    #: Whether ``forward`` takes the host's ``transformer_options`` as one more argument.
    takes_options: ClassVar[bool] = False

    def while_sampling(self, device: torch.device) -> AbstractContextManager[None]:
        """Open while a model call runs in which it computes, on this device."""
        return nullcontext()


class KernelCall(NamedTuple):
    """One call of ComfyUI's ``optimized_attention``: what a kernel is given, and what it is when it is left out.

    q, k, v: (batch, tokens, heads * head_dim), or (batch, heads, tokens, head_dim) with ``skip_reshape``.
    mask: bool (True takes part) or additive; (queries, keys), (batch, queries, keys) or
        (batch, heads or 1, queries, keys); None attends to everything.
    scale: factor on QKᵀ; None is 1/√head_dim.
    enable_gqa: k and v may have fewer heads than q.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    heads: int
    mask: torch.Tensor | None = None
    skip_reshape: bool = False
    skip_output_reshape: bool = False
    scale: float | None = None
    enable_gqa: bool = False

    def head_dim(self) -> int:
        return self.q.shape[-1] if self.skip_reshape else self.q.shape[-1] // self.heads


class KernelProcessor(Processor):
    """Takes the place of ComfyUI's ``optimized_attention``, and is called as that is; ``compute`` does it."""

    level = "kernel"

    def forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        heads: int,
        mask: torch.Tensor | None = None,
        skip_reshape: bool = False,
        skip_output_reshape: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        return self.compute(KernelCall(q, k, v, heads, mask, skip_reshape, skip_output_reshape, scale, enable_gqa))

    def compute(self, call: KernelCall) -> torch.Tensor:
        """Attention of q, k, v: (batch, tokens, heads * head_dim), or (batch, heads, tokens, head_dim) with
        ``skip_output_reshape``."""
        raise NotImplementedError


class ModuleProcessor(Processor):
    """Takes the place of an attention module's computation, with diffusers' call contract."""

    level = "module"

    def forward(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        value: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The output of ``attn``.

        Args:
            attn: the module with ``to_q``, ``to_k``, ``to_v``, ``to_out`` and ``heads``.
            hidden_states: (batch, tokens, channels).
            encoder_hidden_states: (batch, context tokens, context channels); None is self-attention.
            attention_mask: as the ``mask`` of a kernel processor.
            value: what V is made from when that is not the context; (batch, context tokens, context channels).

        Returns:
            (batch, tokens, channels).
        """
        raise NotImplementedError
