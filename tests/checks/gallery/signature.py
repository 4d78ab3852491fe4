"""Processors that cannot be given what a call brings."""

from __future__ import annotations

from gallery import mended, wrong
from onediff_pack.processors import get_processor
from torch import nn

SDPA = get_processor("sdpa")


def attend(attn, x, context=None, mask=None):
    """Attention of a module, as ComfyUI computes it."""
    context = x if context is None else context
    return attn.to_out(SDPA(attn.to_q(x), attn.to_k(context), attn.to_v(context), attn.heads, mask))


@wrong("level-unclear")
class OneInput(nn.Module):
    def forward(self, x):
        return x


@mended(OneInput)
class OneInputMended(nn.Module):
    level = "module"

    def forward(self, attn, x, context=None, mask=None):
        return attend(attn, x, context, mask)


@wrong("level-unclear")
class KeysFirst(nn.Module):
    def forward(self, k, q, v, heads, mask=None, **kwargs):
        return SDPA(q, k, v, heads, mask, **kwargs)


@mended(KeysFirst)
class KeysFirstMended(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q, k, v, heads, mask, **kwargs)


@wrong("other-order")
class DeclaredKeysFirst(nn.Module):
    level = "kernel"

    def forward(self, k, q, v, heads, mask=None, **kwargs):
        return SDPA(q, k, v, heads, mask, **kwargs)


@mended(DeclaredKeysFirst)
class DeclaredKeysFirstMended(nn.Module):
    level = "kernel"

    def forward(self, *, k, q, v, heads, mask=None, **kwargs):
        return SDPA(q, k, v, heads, mask, **kwargs)


@wrong("too-few-arguments", "drops-mask")
class NoHeads(nn.Module):
    def forward(self, q, k, v):
        return SDPA(q, k, v, 2)


@mended(NoHeads)
class NoHeadsMended(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q, k, v, heads, mask, **kwargs)


@wrong("other-order", "drops-mask")
class MaskInHeadsPlace(nn.Module):
    def forward(self, q, k, v, mask=None, heads=2):
        return SDPA(q, k, v, heads, mask)


@mended(MaskInHeadsPlace)
class MaskInHeadsPlaceMended(nn.Module):
    def forward(self, q, k, v, heads=2, mask=None):
        return SDPA(q, k, v, heads, mask)


@wrong("nobody-passes")
class RequiresTimestep(nn.Module):
    def forward(self, attn, hidden_states, encoder_hidden_states, attention_mask, timestep):
        return attend(attn, hidden_states, encoder_hidden_states, attention_mask)


@mended(RequiresTimestep)
class RequiresTimestepMended(nn.Module):
    def forward(self, attn, hidden_states, encoder_hidden_states, attention_mask, timestep=None):
        return attend(attn, hidden_states, encoder_hidden_states, attention_mask)


@wrong("nobody-passes")
class RequiresKeyword(nn.Module):
    def forward(self, q, k, v, heads, mask=None, *, window, **kwargs):
        return SDPA(q, k, v, heads, mask, **kwargs)


@mended(RequiresKeyword)
class RequiresKeywordMended(nn.Module):
    def forward(self, q, k, v, heads, mask=None, *, window=64, **kwargs):
        return SDPA(q, k, v, heads, mask, **kwargs)


@wrong("drops-mask")
class KernelWithoutMask(nn.Module):
    def forward(self, q, k, v, heads):
        return SDPA(q, k, v, heads)


@mended(KernelWithoutMask)
class KernelWithoutMaskMended(nn.Module):
    def forward(self, q, k, v, heads, mask=None):
        return SDPA(q, k, v, heads, mask)


@wrong("drops-mask")
class ModuleWithoutMask(nn.Module):
    def forward(self, attn, hidden_states, encoder_hidden_states=None):
        return attend(attn, hidden_states, encoder_hidden_states)


@mended(ModuleWithoutMask)
class ModuleWithoutMaskMended(nn.Module):
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        return attend(attn, hidden_states, encoder_hidden_states, attention_mask)


@wrong("drops-context")
class SelfOnly(nn.Module):
    def forward(self, attn, hidden_states, attention_mask=None):
        return attend(attn, hidden_states, None, attention_mask)


@mended(SelfOnly)
class SelfOnlyMended(nn.Module):
    def forward(self, attn, hidden_states, attention_mask=None, encoder_hidden_states=None):
        return attend(attn, hidden_states, encoder_hidden_states, attention_mask)
