"""Processors without a usable ``forward``."""

from __future__ import annotations

import abc

from gallery import mended, wrong
from onediff_pack.processors import get_processor
from torch import nn

SDPA = get_processor("sdpa")
REFERENCE = get_processor("reference")


class Attention(nn.Module):
    """PyTorch's attention, for the mended ones to build on."""

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q, k, v, heads, mask, **kwargs)


@wrong("no-forward")
class Bare(nn.Module):
    pass


@mended(Bare)
class BareMended(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q, k, v, heads, mask, **kwargs)


@wrong("no-forward")
class MisspelledForward(nn.Module):
    def foward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q, k, v, heads, mask, **kwargs)


@mended(MisspelledForward)
class MisspelledForwardMended(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q, k, v, heads, mask, **kwargs)


@wrong("forward-only-raises")
class OnlyRaises(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        """Not written yet."""
        raise NotImplementedError("later")


@mended(OnlyRaises)
class OnlyRaisesMended(Attention):
    pass


@wrong("forward-only-raises")
class RaisesBare(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        raise NotImplementedError


@mended(RaisesBare)
class RaisesBareMended(Attention):
    pass


@wrong("forward-only-raises")
class Abstract(nn.Module):
    @abc.abstractmethod
    def forward(self, q, k, v, heads, mask=None, **kwargs): ...


@mended(Abstract)
class AbstractMended(Abstract):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q, k, v, heads, mask, **kwargs)


@wrong("call-instead-of-forward")
class Called(nn.Module):
    def __call__(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q, k, v, heads, mask, **kwargs)


@mended(Called)
class CalledMended(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q, k, v, heads, mask, **kwargs)


@wrong("call-instead-of-forward")
class CalledBesideAnEmptyForward(nn.Module):
    def forward(self, *args, **kwargs):
        raise NotImplementedError

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, value=None):
        return REFERENCE(attn, hidden_states, encoder_hidden_states, attention_mask, value)


@mended(CalledBesideAnEmptyForward)
class CalledBesideAnEmptyForwardMended(nn.Module):
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, value=None):
        return REFERENCE(attn, hidden_states, encoder_hidden_states, attention_mask, value)
