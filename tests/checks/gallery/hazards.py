"""Processors that a graph cannot follow, or only at a cost; and some that look so and are right."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import random
import sys
import time

import numpy as np
import torch
from gallery import mended, right, wrong
from onediff_pack.processors import get_processor
from torch import nn

SDPA = get_processor("sdpa")
log = logging.getLogger(__name__)

calls = 0
strength = 1.0
GAINS = {"self": 1.0, "cross": 1.0}


def set_strength(value):
    global strength
    strength = value


class Attention(nn.Module):
    """PyTorch's attention, for others to build on."""

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q, k, v, heads, mask, **kwargs)


# Breaks.


@wrong("depends-on-values")
class ClampsWhenLarge(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        if q.abs().max() > 1e4:  # here
            q = q.clamp(-1e4, 1e4)
        return SDPA(q, k, v, heads, mask, **kwargs)


@mended(ClampsWhenLarge)
class ClampsWhenLargeMended(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q.clamp(-1e4, 1e4), k, v, heads, mask, **kwargs)


@wrong("depends-on-values")
class SkipsFullMask(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        if mask is not None and mask.dtype != torch.bool and not mask.any():  # here
            mask = None
        return SDPA(q, k, v, heads, mask, **kwargs)


@mended(SkipsFullMask)
class SkipsFullMaskMended(Attention):
    pass


@wrong("depends-on-values")
class BranchesOnItem(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        if k.abs().max().item() > 1e4:  # here
            k = k.clamp(-1e4, 1e4)
        return SDPA(q, k, v, heads, mask, **kwargs)


@mended(BranchesOnItem)
class BranchesOnItemMended(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        peak = k.abs().max()
        k = torch.where(peak > 1e4, k.clamp(-1e4, 1e4), k)
        return SDPA(q, k, v, heads, mask, **kwargs)


@wrong("prints")
class PrintsShapes(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        print("attention", end="\r", file=sys.stderr)  # noqa: T201  # here
        return SDPA(q, k, v, heads, mask, **kwargs)


@mended(PrintsShapes)
class PrintsShapesMended(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        if not torch.compiler.is_compiling():
            print("attention", end="\r", file=sys.stderr)  # noqa: T201
        return SDPA(q, k, v, heads, mask, **kwargs)


@wrong("prints")
class LogsInHelper(nn.Module):
    def note(self, q):
        log.debug("queries %s", q.shape)  # here

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        self.note(q)
        return SDPA(q, k, v, heads, mask, **kwargs)


@mended(LogsInHelper)
class LogsInHelperMended(Attention):
    pass


@wrong("files-in-forward")
class ReadsSettings(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        with open(os.devnull) as settings:  # here
            gain = float(settings.read() or 1)
        return SDPA(q * gain, k, v, heads, mask, **kwargs)


@mended(ReadsSettings)
class ReadsSettingsMended(nn.Module):
    def __init__(self):
        super().__init__()
        with open(os.devnull) as settings:
            self.gain = float(settings.read() or 1)

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q * self.gain, k, v, heads, mask, **kwargs)


@wrong("clock")
class TakesTime(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        started = time.perf_counter()  # here
        assert started > 0
        return SDPA(q, k, v, heads, mask, **kwargs)


@mended(TakesTime)
class TakesTimeMended(Attention):
    pass


@wrong("random-outside-torch")
class DropsAtRandom(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        if random.random() > 1:  # here
            return v
        return SDPA(q, k, v, heads, mask, **kwargs)


@mended(DropsAtRandom)
class DropsAtRandomMended(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = random.random() > 1

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return v if self.drop else SDPA(q, k, v, heads, mask, **kwargs)


@wrong("random-outside-torch")
class NumpyNoise(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        noise = np.random.uniform(0, 1)  # here
        return SDPA(q + 0 * float(noise), k, v, heads, mask, **kwargs)


@mended(NumpyNoise)
class NumpyNoiseMended(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q + 0 * torch.rand_like(q), k, v, heads, mask, **kwargs)


@wrong("inspects-python")
class AsksItsCaller(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        caller = sys._getframe(1).f_code.co_name  # here
        return SDPA(q * (2.0 if caller == "cross" else 1.0), k, v, heads, mask, **kwargs)


@mended(AsksItsCaller)
class AsksItsCallerMended(nn.Module):
    def __init__(self, gain: float = 1.0):
        super().__init__()
        self.gain = gain

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q * self.gain, k, v, heads, mask, **kwargs)


@torch.compiler.disable
def undocumented(q):
    return q * 1


@wrong("compiler-disabled")
class CallsDisabled(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(undocumented(q), k, v, heads, mask, **kwargs)  # here


@mended(CallsDisabled)
class CallsDisabledMended(Attention):
    pass


@wrong("opaque-kernel")
class CallsC(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        ready = ctypes.pythonapi.Py_IsInitialized()  # here
        return SDPA(q * ready, k, v, heads, mask, **kwargs)


@mended(CallsC)
class CallsCMended(nn.Module):
    def __init__(self):
        super().__init__()
        self.ready = ctypes.pythonapi.Py_IsInitialized()

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q * self.ready, k, v, heads, mask, **kwargs)


@wrong("relies-on-caught-error")
class TriesViewFirst(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        turned = q.transpose(-1, -2)
        try:
            flat = turned.view(turned.shape[0], -1)  # here
        except RuntimeError:
            flat = turned.reshape(turned.shape[0], -1)
        return SDPA(q + 0 * flat.sum(), k, v, heads, mask, **kwargs)


@mended(TriesViewFirst)
class TriesViewFirstMended(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        turned = q.transpose(-1, -2)
        flat = turned.reshape(turned.shape[0], -1)
        return SDPA(q + 0 * flat.sum(), k, v, heads, mask, **kwargs)


@wrong("scripted-module")
class HoldsScripted(nn.Module):
    """Scripted functions fit into a graph, scripted modules do not."""

    def __init__(self):
        super().__init__()
        self.inner = torch.jit.script(nn.Identity())

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(self.inner(q), k, v, heads, mask, **kwargs)  # here


@mended(HoldsScripted)
class HoldsScriptedMended(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(self.inner(q), k, v, heads, mask, **kwargs)


@wrong("graph-break")
class AsksForThreads(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        many = torch.get_num_threads() > 0  # here
        return SDPA(q if many else q.clone(), k, v, heads, mask, **kwargs)


@mended(AsksForThreads)
class AsksForThreadsMended(nn.Module):
    def __init__(self):
        super().__init__()
        self.many = torch.get_num_threads() > 0

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q if self.many else q.clone(), k, v, heads, mask, **kwargs)


# State.


@wrong("step-state")
class CountsSteps(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        self.calls += 1  # here
        return SDPA(q, k, v, heads, mask, **kwargs)


@mended(CountsSteps)
class CountsStepsMended(Attention):
    pass


@wrong("step-state")
class KeepsHistory(nn.Module):
    def __init__(self):
        super().__init__()
        self.history = []

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        self.history.append(heads)  # here
        return SDPA(q, k, v, heads, mask, **kwargs)


@mended(KeepsHistory)
class KeepsHistoryMended(nn.Module):
    def __init__(self):
        super().__init__()
        self.history = []

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        if not torch.compiler.is_compiling():
            self.history.append(heads)
        return SDPA(q, k, v, heads, mask, **kwargs)


@wrong("step-state")
class CountsInGlobal(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        global calls
        calls += 1  # here
        return SDPA(q, k, v, heads, mask, **kwargs)


@mended(CountsInGlobal)
class CountsInGlobalMended(Attention):
    pass


@wrong("state-in-forward")
class KeepsLastQueries(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = None

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        self.last = q  # here
        return SDPA(q, k, v, heads, mask, **kwargs)


@mended(KeepsLastQueries)
class KeepsLastQueriesMended(Attention):
    pass


@wrong("state-in-forward")
class MakesTableLate(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = None

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        if self.table is None:
            self.table = torch.ones(1)  # here
        return SDPA(q * self.table.to(q), k, v, heads, mask, **kwargs)


@mended(MakesTableLate)
class MakesTableLateMended(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.ones(1)

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q * self.table.to(q), k, v, heads, mask, **kwargs)


@wrong("changing-global")
class ReadsStrength(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q * strength, k, v, heads, mask, **kwargs)  # here


@mended(ReadsStrength)
class ReadsStrengthMended(nn.Module):
    def __init__(self):
        super().__init__()
        self.strength = strength

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q * self.strength, k, v, heads, mask, **kwargs)


@wrong("hook-on-processor")
class Hooked(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Identity()
        self.inner.register_forward_hook(self.double)

    def double(self, module, args, output):  # here
        return output * 1

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(self.inner(q), k, v, heads, mask, **kwargs)


@mended(Hooked)
class HookedMended(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q * 1, k, v, heads, mask, **kwargs)


# Waiting and recompiling.


@wrong("reads-value")
class TakesItem(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        peak = k.abs().max().item()  # here
        return SDPA(q, k.clamp(-peak, peak), v, heads, mask, **kwargs)


@mended(TakesItem)
class TakesItemMended(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        peak = k.abs().max()
        return SDPA(q, k.clamp(-peak, peak), v, heads, mask, **kwargs)


@wrong("reads-value")
class FloatOfBuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("gain", torch.tensor(0.5))

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q * float(self.gain), k, v, heads, mask, **kwargs)  # here


@mended(FloatOfBuffer)
class FloatOfBufferMended(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("gain", torch.tensor(0.5))

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q * self.gain.to(q.dtype), k, v, heads, mask, **kwargs)


@wrong("to-cpu")
class ThroughCPU(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        mean = k.mean(dim=1, keepdim=True).to("cpu")  # here
        return SDPA(q, k + 0 * mean.to(k.device), v, heads, mask, **kwargs)


@mended(ThroughCPU)
class ThroughCPUMended(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q, k + 0 * k.mean(dim=1, keepdim=True), v, heads, mask, **kwargs)


@wrong("to-numpy")
class ClipsInNumpy(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        clipped = np.clip(q.cpu().float().numpy(), -1e4, 1e4)  # here
        return SDPA(torch.as_tensor(clipped).to(q), k, v, heads, mask, **kwargs)


@mended(ClipsInNumpy)
class ClipsInNumpyMended(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q.clamp(-1e4, 1e4), k, v, heads, mask, **kwargs)


@wrong("reads-environment")
class ReadsVariable(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        gain = 2.0 if os.environ.get("ATTENTION_GAIN") == "double" else 1.0  # here
        return SDPA(q * gain, k, v, heads, mask, **kwargs)


@mended(ReadsVariable)
class ReadsVariableMended(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = 2.0 if os.environ.get("ATTENTION_GAIN") == "double" else 1.0

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q * self.gain, k, v, heads, mask, **kwargs)


@wrong("recompiles-per-size")
class TableByToken(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):  # here
        decay = [1.0 - 0 * i for i in range(k.shape[-2])]
        return SDPA(q, k * torch.tensor(decay).to(k)[:, None], v, heads, mask, **kwargs)


@mended(TableByToken)
class TableByTokenMended(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        decay = 1.0 - 0 * torch.arange(k.shape[-2], device=k.device, dtype=k.dtype)
        return SDPA(q, k * decay[:, None], v, heads, mask, **kwargs)


@wrong("recompiles-per-block")
class GainByModule(nn.Module):
    def __init__(self):
        super().__init__()
        self.gains = {}

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q = attn.to_q(hidden_states) * self.gains.get(id(attn.to_q), 1.0)  # here
        return attn.to_out(SDPA(q, attn.to_k(context), attn.to_v(context), attn.heads, attention_mask))


@mended(GainByModule)
class GainByModuleMended(nn.Module):
    def __init__(self, gain: float = 1.0):
        super().__init__()
        self.gain = gain

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q = attn.to_q(hidden_states) * self.gain
        return attn.to_out(SDPA(q, attn.to_k(context), attn.to_v(context), attn.heads, attention_mask))


# Right, however they look.


@right
class LogsUncompiled(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        if not torch.compiler.is_compiling() and log.isEnabledFor(logging.INFO):
            log.info("queries %s", q.shape)
        return SDPA(q, k, v, heads, mask, **kwargs)


@right
class ReturnsBeforeLogging(nn.Module):
    def note(self, q):
        if torch.compiler.is_compiling():
            return
        self.seen = tuple(q.shape)
        log.debug("queries %s, largest %s", q.shape, q.abs().max().item())

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        self.note(q)
        return SDPA(q, k, v, heads, mask, **kwargs)


@right
class TableFromInit(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.ones(64)
        self.settings = {"gain": 1.0, "layers": [0, 1]}

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        gain = self.table[: q.shape[1]].mean().to(q) * self.settings["gain"]
        return SDPA(q * gain, k, v, heads, mask, **kwargs)


@right
class ConstantFromFile(nn.Module):
    """A global table that nobody changes, and numbers by NumPy that come from shapes."""

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        gain = GAINS["self" if q.shape[1] == k.shape[1] else "cross"]
        return SDPA(q * gain * float(np.sqrt(1.0)), k, v, heads, mask, **kwargs)


@right
class UnreachedDebugging(nn.Module):
    def __init__(self):
        super().__init__()
        self.debug = False

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        if self.debug:
            print(q.abs().max().item(), time.time(), random.random())  # noqa: T201
            self.debug_calls = 1
        return SDPA(q, k, v, heads, mask, **kwargs)


@torch.jit.script
def scripted(q: torch.Tensor) -> torch.Tensor:
    return q * 0.5


@right
class ScriptedHelper(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(scripted(q), k, v, heads, mask, **kwargs)


@wrong("too-long")
class DampsInManySteps(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):  # here
        for _ in range(260):
            q = q * 0.999
        return SDPA(q, k, v, heads, mask, **kwargs)


@mended(DampsInManySteps)
class DampsInManyStepsMended(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q * 0.999**260, k, v, heads, mask, **kwargs)


@functools.lru_cache
def scale_of(channels: int) -> float:
    return 1.0 + 0 * channels


@right
class CachedScale(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q * scale_of(q.shape[-1]), k, v, heads, mask, **kwargs)


@right
class FallsBack(nn.Module):
    """``try`` where nothing is raised."""

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        try:
            return SDPA(q, k, v, heads, mask, **kwargs)
        except NotImplementedError:
            log.warning("fell back")
            raise


@right
class TorchNoise(nn.Module):
    def forward(self, q, k, v, heads, mask=None, **kwargs):
        return SDPA(q + 0 * torch.randn_like(q), k, v, heads, mask, **kwargs)


@right
class LocalList(nn.Module):
    """Lists of its own, and assertions on shapes."""

    def forward(self, q, k, v, heads, mask=None, **kwargs):
        assert k.shape[1] == v.shape[1]
        length = len(q.shape)
        parts = []
        parts.append(q)
        return SDPA(parts[-1] * int(length == 3 or 1), k, v, heads, mask, **kwargs)
