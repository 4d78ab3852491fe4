"""Processors on which there is nothing to find, however unusual they look."""

from __future__ import annotations

import dataclasses
import functools

import torch
from gallery import right
from onediff_pack.processors import get_processor
from torch import nn

SDPA = get_processor("sdpa")


def attend(attn, x, context=None, mask=None):
    """Attention of a module, as ComfyUI computes it."""
    context = x if context is None else context
    return attn.to_out(SDPA(attn.to_q(x), attn.to_k(context), attn.to_v(context), attn.heads, mask))


@right
class Kernel(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q, k, v, heads, mask, **kwargs)


@right
class Inherited(Kernel):
    pass


@right
class Module(nn.Module):
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        return attend(attn, hidden_states, encoder_hidden_states, attention_mask)


@right
class ModuleWithTemb(nn.Module):
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, *args, **kwargs):
        return attend(attn, hidden_states, encoder_hidden_states, attention_mask)


@right
class HostNames(nn.Module):
    level = "module"

    def forward(self, attn, x, context=None, mask=None, value=None):
        return attend(attn, x, context, mask)


@right
class OtherNames(nn.Module):
    def forward(self, query, key, value, num_heads, attn_mask=None):
        return SDPA(query, key, value, num_heads, attn_mask)


@right
class KeywordsOnly(nn.Module):
    level = "kernel"

    def forward(self, *, q, k, v, heads, mask=None, scale=None):
        return SDPA(q, k, v, heads, mask, scale=scale)


@right
class AnyKeywords(nn.Module):
    level = "kernel"

    def forward(self, **given):
        return SDPA(given["q"], given["k"], given["v"], given["heads"], given["mask"])


@right
class AnyArguments(nn.Module):
    level = "kernel"

    def forward(self, *args, **kwargs):
        return SDPA(*args, **kwargs)


@right
@dataclasses.dataclass(eq=False)
class DataclassModule(nn.Module):
    gain: float = 1.0

    def __post_init__(self):
        super().__init__()

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q * self.gain, k, v, heads, mask, **kwargs)


@right
def partial():
    """A kernel kept as functools.partial."""

    class Partial(nn.Module):
        def __init__(self):
            super().__init__()
            self.compute = functools.partial(SDPA, skip_reshape=False)

        def forward(self, q, k, v, heads, mask=None):
            return self.compute(q, k, v, heads, mask)

    return Partial()


@right
def closure():
    """A gain taken from around the class."""
    gain = 0.5

    class Closure(nn.Module):
        def forward(self, q, k, v, heads, mask=None, **kwargs):
            return SDPA(q * gain, k, v, heads, mask, **kwargs)

    return Closure()


@right
class WithParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q * self.gain.to(q.dtype), k, v, heads, mask, **kwargs)


@right
class WithBuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("gain", torch.tensor(0.5))

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q * self.gain.to(q.dtype), k, v, heads, mask, **kwargs)


@right
class WithChild(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Kernel()
        self.parts = nn.ModuleList([nn.Identity()])

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        for part in self.parts:
            q = part(q)
        return self.inner(q, k, v, heads, mask, **kwargs)


@right
class BranchOnShape(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        if q.shape[1] == k.shape[1] and mask is None:
            return SDPA(q, k, v, heads, **kwargs)
        return SDPA(q, k, v, heads, mask, **kwargs)


@right
class BranchOnSetting(nn.Module):
    def __init__(self, double: bool = True):
        super().__init__()
        self.double = double

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        if self.double:
            q = q * 2
        return SDPA(q, k, v, heads, mask, **kwargs)


@right
class Cached(nn.Module):
    """A property and a static method."""

    @property
    def gain(self) -> float:
        return 0.5

    @staticmethod
    def compute(q, k, v, heads, mask):
        return SDPA(q, k, v, heads, mask)

    def forward(self, q, k, v, heads, mask=None):
        return self.compute(q * self.gain, k, v, heads, mask)


@right
class InFloat32(nn.Module):
    def forward(self, q, k, v, heads, mask=None):
        mask = mask if mask is None or mask.dtype == torch.bool else mask.float()
        return SDPA(q.float(), k.float(), v.float(), heads, mask).to(q.dtype)


@right
class Decorated(nn.Module):
    @torch.no_grad()
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q, k, v, heads, mask, **kwargs)


@right
class Loop(nn.Module):
    """One head after the other."""

    def forward(self, q, k, v, heads, mask=None):
        width = q.shape[-1] // heads
        if mask is not None:
            mask = mask.reshape(*(1,) * (4 - mask.ndim), *mask.shape) if mask.ndim != 3 else mask.unsqueeze(1)
        parts = []
        for head in range(heads):
            take = slice(head * width, (head + 1) * width)
            masks = mask if mask is None or mask.shape[1] == 1 else mask[:, head : head + 1]
            parts.append(SDPA(q[..., take], k[..., take], v[..., take], 1, masks))
        return torch.cat(parts, dim=-1)


@right
class WritesToItsOwn(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q.clone().mul_(2), k, v, heads, mask, **kwargs).add_(0.0)


@right
class DropoutInTraining(nn.Module):
    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.eval()

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return self.dropout(SDPA(q, k, v, heads, mask, **kwargs))


@right
class ComputesSomethingElse(nn.Module):
    """Leaves masked keys out and scales its own way: not PyTorch's attention, and meant so."""

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return 0.7 * SDPA(q * 1.5, k, v, heads, mask, **kwargs)


@right
class LooksAtNoKeys(nn.Module):
    """No mask can matter."""

    def forward(self, q, k, v, heads, mask=None):
        return q * 0.5


@right
class NumberOfItsOwn(nn.Module):
    """A number computed from a tensor when the module is made."""

    def __init__(self):
        super().__init__()
        self.gain = float(torch.ones(3).mean())

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q * self.gain, k, v, heads, mask, **kwargs)


@right
class OwnTensor(nn.Module):
    """A tensor that is neither parameter nor buffer, and a bound method kept as an attribute."""

    def __init__(self):
        super().__init__()
        self.gain = torch.ones(1)
        self.compute = self.scaled

    def scaled(self, q):
        return q * self.gain.to(q)

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(self.compute(q), k, v, heads, mask, **kwargs)


@right
class BiasOfOnes(nn.Module):
    """Makes a tensor on the device of its input."""

    def forward(self, q, k, v, heads, mask=None):
        return SDPA(q, k + torch.arange(k.shape[-1], device=k.device, dtype=k.dtype), v, heads, mask)


@torch.jit.script
def halved(x: torch.Tensor) -> torch.Tensor:
    """Dynamo takes a scripted function apart; a scripted module it does not."""
    return x * 0.5


@right
class Scripted(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(halved(q), k, v, heads, mask, **kwargs)
