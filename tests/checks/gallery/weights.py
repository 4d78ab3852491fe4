"""Processors whose tensors do not fit the model."""

from __future__ import annotations

import torch
from gallery import mended, wrong
from onediff_pack.processors import get_processor
from torch import nn

SDPA = get_processor("sdpa")


class Scaled(nn.Module):
    """Multiplies q with a weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(32), requires_grad=False)

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q * self.weight, k, v, heads, mask, **kwargs)


@wrong("not-finite-weights")
class NaNInWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((32,), float("nan")), requires_grad=False)  # here

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q * self.weight, k, v, heads, mask, **kwargs)


@mended(NaNInWeights)
class NaNInWeightsMended(Scaled):
    pass


@wrong("not-finite-weights")
class InfInBuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("bias", torch.tensor([float("-inf")]))  # here

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q + self.bias, k, v, heads, mask, **kwargs)


@mended(InfInBuffer)
class InfInBufferMended(Scaled):
    pass


@wrong("requires-grad")
class Trainable(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))  # here

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q * self.gain.to(q.dtype), k, v, heads, mask, **kwargs)


@mended(Trainable)
class TrainableMended(Trainable):
    def __init__(self):
        super().__init__()
        self.requires_grad_(False)


@wrong("other-dtype-weights")
class HalfLinear(nn.Module):
    def __init__(self, dtype=torch.float16):
        super().__init__()
        self.proj = nn.Linear(32, 32, dtype=dtype).requires_grad_(False)

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(self.proj(q), k, v, heads, mask, **kwargs)  # here


@mended(HalfLinear)
class HalfLinearMended(HalfLinear):
    def __init__(self):
        super().__init__(torch.float32)


@wrong("other-dtype-weights")
class DoubleScale(nn.Module):
    """The result becomes float64, because the weight is."""

    def __init__(self):
        super().__init__()
        self.register_buffer("gain", torch.ones(32, dtype=torch.float64))

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q, k, v, heads, mask, **kwargs) * self.gain


@mended(DoubleScale)
class DoubleScaleMended(DoubleScale):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q, k, v, heads, mask, **kwargs) * self.gain.to(q.dtype)


@wrong("no-data")
class NeverLoaded(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.empty(1, device="meta"), requires_grad=False)  # here

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q * self.gain, k, v, heads, mask, **kwargs)


@mended(NeverLoaded)
class NeverLoadedMended(Scaled):
    pass
