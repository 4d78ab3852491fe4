"""Processors that go wrong when they are called."""

from __future__ import annotations

import torch
from gallery import mended, wrong
from onediff_pack.processors import get_processor
from torch import nn
from torch.nn.functional import dropout, scaled_dot_product_attention

SDPA = get_processor("sdpa")


class Attention(nn.Module):
    """PyTorch's attention, for the mended ones to build on."""

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q, k, v, heads, mask, **kwargs)


def heads_apart(x, heads):
    batch, tokens, channels = x.shape
    return x.view(batch, tokens, heads, channels // heads).transpose(1, 2)


def heads_together(x):
    batch, heads, tokens, width = x.shape
    return x.transpose(1, 2).reshape(batch, tokens, heads * width)


def four_dimensional(mask):
    return mask if mask is None or mask.ndim == 4 else mask.view(-1, 1, *mask.shape[-2:])


@wrong("misreads-mask")
class MaskOfOneForm(nn.Module):
    """A mask a picture is taken for one a head, which PyTorch allows where there are as many pictures as heads."""

    def forward(self, q, k, v, heads, mask=None):
        q, k, v = (heads_apart(x, heads) for x in (q, k, v))
        return heads_together(scaled_dot_product_attention(q, k, v, attn_mask=mask))


@mended(MaskOfOneForm)
class MaskOfOneFormMended(nn.Module):
    def forward(self, q, k, v, heads, mask=None):
        q, k, v = (heads_apart(x, heads) for x in (q, k, v))
        return heads_together(scaled_dot_product_attention(q, k, v, attn_mask=four_dimensional(mask)))


@wrong("raises", kind="self")
class SquarePictures(nn.Module):
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        side = int(hidden_states.shape[1] ** 0.5)
        hidden_states.reshape(-1, side, side, hidden_states.shape[2])  # here
        return attn.to_out(
            SDPA(
                attn.to_q(hidden_states),
                attn.to_k(hidden_states),
                attn.to_v(hidden_states),
                attn.heads,
                attention_mask,
            )
        )


@mended(SquarePictures)
class SquarePicturesMended(nn.Module):
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        x = hidden_states
        context = x if encoder_hidden_states is None else encoder_hidden_states
        return attn.to_out(SDPA(attn.to_q(x), attn.to_k(context), attn.to_v(context), attn.heads, attention_mask))


@wrong("raises")
class PromptOf77(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.ones(77, 1))

    def forward(self, q, k, v, heads, mask=None):
        return SDPA(q, k * self.weight, v, heads, mask)  # here


@mended(PromptOf77)
class PromptOf77Mended(Attention):
    pass


@wrong("raises")
class BatchOfTwo(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        negative, positive = q.chunk(2)  # here
        return SDPA(torch.cat([negative, positive]), k, v, heads, mask, **kwargs)


@mended(BatchOfTwo)
class BatchOfTwoMended(Attention):
    pass


@wrong("raises")
class SixtyFourChannels(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(64, 64).requires_grad_(False)

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(self.proj(q), k, v, heads, mask, **kwargs)  # here


@mended(SixtyFourChannels)
class SixtyFourChannelsMended(SixtyFourChannels):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(32, 32).requires_grad_(False)


@wrong("raises")
class UsesDiffusersModule(nn.Module):
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        return attn.to_out[0](attn.get_attention_scores(attn.to_q(hidden_states)))  # here


@mended(UsesDiffusersModule)
class UsesDiffusersModuleMended(SquarePicturesMended):
    pass


@wrong("wrong-shape")
class KeepsHeadsApart(nn.Module):
    def forward(self, q, k, v, heads, mask=None):
        q, k, v = (heads_apart(x, heads) for x in (q, k, v))
        return scaled_dot_product_attention(q, k, v, attn_mask=four_dimensional(mask))


@mended(KeepsHeadsApart)
class KeepsHeadsApartMended(MaskOfOneFormMended):
    pass


@wrong("wrong-shape")
class AttendsWithKeys(nn.Module):
    """As many results as keys: right in self-attention only."""

    def forward(self, q, k, v, heads, mask=None):
        return SDPA(k, k, v, heads)


@mended(AttendsWithKeys)
class AttendsWithKeysMended(Attention):
    pass


@wrong("wrong-dtype")
class StaysInFloat32(nn.Module):
    def forward(self, q, k, v, heads, mask=None):
        mask = mask if mask is None or mask.dtype == torch.bool else mask.float()
        return SDPA(q.float(), k.float(), v.float(), heads, mask)


@mended(StaysInFloat32)
class StaysInFloat32Mended(StaysInFloat32):
    def forward(self, q, k, v, heads, mask=None):
        return super().forward(q, k, v, heads, mask).to(q.dtype)


@wrong("no-tensor")
class ReturnsWeightsToo(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q, k, v, heads, mask, **kwargs), None


@mended(ReturnsWeightsToo)
class ReturnsWeightsTooMended(Attention):
    pass


@wrong("graph-break", "wrong-layout")
class Sparse(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kw): return SDPA(q, k, v, heads, mask, **kw).to_sparse()  # fmt: skip


@mended(Sparse)
class SparseMended(Attention):
    pass


@wrong("not-finite")
class TakesLogarithm(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q, k, v.log(), heads, mask, **kwargs)


@mended(TakesLogarithm)
class TakesLogarithmMended(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q, k, v.abs().log1p(), heads, mask, **kwargs)


@wrong("not-repeatable")
class AddsNoise(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q + 0.1 * torch.randn_like(q), k, v, heads, mask, **kwargs)


@mended(AddsNoise)
class AddsNoiseMended(Attention):
    pass


@wrong("writes-inputs")
class ScalesKeysInPlace(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q, k.mul_(1.1), v, heads, mask, **kwargs)


@mended(ScalesKeysInPlace)
class ScalesKeysInPlaceMended(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q, k * 1.1, v, heads, mask, **kwargs)


@wrong("sets-default-dtype")
class ComputesInDouble(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        torch.set_default_dtype(torch.float64)
        return SDPA(q, k, v, heads, mask, **kwargs) * torch.ones((), dtype=q.dtype)


@mended(ComputesInDouble)
class ComputesInDoubleMended(Attention):
    pass


@wrong("writes-inputs")
class FillsMaskInPlace(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        if mask is not None and mask.dtype != torch.bool:
            mask.clamp_(max=0)
        return SDPA(q, k, v, heads, mask, **kwargs)


@mended(FillsMaskInPlace)
class FillsMaskInPlaceMended(Attention):
    pass


@wrong("training-mode")
class LeftInTraining(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return dropout(SDPA(q, k, v, heads, mask, **kwargs), 0.5, self.training)


@mended(LeftInTraining)
class LeftInTrainingMended(LeftInTraining):
    def __init__(self):
        super().__init__()
        self.eval()


@wrong("training-differs")
class ScalesInTraining(nn.Module):
    def __init__(self):
        super().__init__()
        self.eval()

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q * 2 if self.training else q, k, v, heads, mask, **kwargs)


@mended(ScalesInTraining)
class ScalesInTrainingMended(ScalesInTraining):
    differs_in_training = True


@wrong("ignores-mask")
class IgnoresMask(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q, k, v, heads, None, **kwargs)


@mended(IgnoresMask)
class IgnoresMaskMended(Attention):
    pass


@wrong("ignores-mask", kind="self")
class IgnoresMaskAndComputesItsOwn(nn.Module):
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        x = hidden_states
        return attn.to_out(SDPA(attn.to_q(x) * 0.5, attn.to_k(x), attn.to_v(x), attn.heads))


@mended(IgnoresMaskAndComputesItsOwn)
class IgnoresMaskAndComputesItsOwnMended(nn.Module):
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        x = hidden_states
        context = x if encoder_hidden_states is None else encoder_hidden_states
        q = attn.to_q(x) * 0.5
        return attn.to_out(SDPA(q, attn.to_k(context), attn.to_v(context), attn.heads, attention_mask))


@wrong("inverts-mask")
class TrueIsLeftOut(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        if mask is not None and mask.dtype == torch.bool:
            mask = ~mask
        return SDPA(q, k, v, heads, mask, **kwargs)


@mended(TrueIsLeftOut)
class TrueIsLeftOutMended(Attention):
    pass


@wrong("misreads-mask")
class AddsBoolMask(nn.Module):
    """True adds 1 to a score, and nothing is left out."""

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q, k, v, heads, mask if mask is None else mask.to(q.dtype), **kwargs)


@mended(AddsBoolMask)
class AddsBoolMaskMended(Attention):
    pass


@wrong("misreads-mask")
class CutsAdditiveMask(nn.Module):
    """Everything below zero is left out, however little it is."""

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        if mask is not None and mask.dtype != torch.bool:
            mask = mask >= 0
        return SDPA(q, k, v, heads, mask, **kwargs)


@mended(CutsAdditiveMask)
class CutsAdditiveMaskMended(Attention):
    pass


@wrong("raises", kind="kernel")
class FlatOnly(nn.Module):
    """Takes skip_reshape with **kwargs and does not look at it."""

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        _batch, _tokens, _channels = q.shape  # here
        q, k, v = (heads_apart(x, heads) for x in (q, k, v))
        return heads_together(scaled_dot_product_attention(q, k, v, attn_mask=four_dimensional(mask)))


@mended(FlatOnly)
class FlatOnlyMended(nn.Module):
    def forward(self, q, k, v, heads, mask=None):
        q, k, v = (heads_apart(x, heads) for x in (q, k, v))
        return heads_together(scaled_dot_product_attention(q, k, v, attn_mask=four_dimensional(mask)))


@wrong("wrong-shape", kind="kernel")
class ForgetsSkipOutputReshape(nn.Module):
    def forward(self, q, k, v, heads, mask=None, skip_reshape=False, **kwargs):
        return SDPA(q, k, v, heads, mask, skip_reshape)


@mended(ForgetsSkipOutputReshape)
class ForgetsSkipOutputReshapeMended(nn.Module):
    def forward(self, q, k, v, heads, mask=None, skip_reshape=False):
        return SDPA(q, k, v, heads, mask, skip_reshape)
