"""What a maintainer of diffusers would say of each processor of the corpus, and the picture that it makes.

Written before the check was run on them. A finding's sentence may be any, as long as it names what is in ``says`` and
its remedy what is in ``remedy``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from corpus import pictures as p
from corpus.pictures import Call, Picture

Verdict = Literal["fine", "warning", "error"]
Model = Literal["sd15", "sd15 in float16", "flux"]


def never(call: Call) -> bool:
    return False


def three_dimensional(call: Call) -> bool:
    return call.mask is not None and call.mask.ndim == 3


def of_the_prompt(call: Call) -> bool:
    return call.mask is not None and call.crosses


@dataclass(frozen=True)
class Expected:
    """One class of a file.

    Attributes:
        verdict: on a small SD 1.5 in float32. An error means that sdpa takes its place there.
        line: text of the line that the worst finding points to.
        says: what the finding has to name.
        remedy: what its remedy has to name, mostly code.
        picture: what it computes.
        served: calls that are sdpa's, because it would fail on them.
        uncompiled: whether blocks with it must not be compiled; None where either is right.
        mended: what it computes after the remedy, None for the same.
        within: how far from its formula it may be.
        on: its verdict on other models.
    """

    file: str
    cls: str
    verdict: Verdict
    picture: Picture
    line: str = ""
    says: tuple[str, ...] = ()
    remedy: tuple[str, ...] = ()
    served: Callable[[Call], bool] = never
    uncompiled: bool | None = False
    mended: Picture | None = None
    within: float = 2e-4
    on: Mapping[Model, Verdict] = field(default_factory=dict)


def _file_and_class(name: str) -> tuple[str, str]:
    file, cls = name.split(":")
    return file, cls


def fine(name: str, picture: Picture, **more: Any) -> Expected:
    return Expected(*_file_and_class(name), "fine", picture, **more)


def warned(name: str, picture: Picture, line: str, *remedy: str, **more: Any) -> Expected:
    return Expected(*_file_and_class(name), "warning", picture, line, remedy=remedy, **more)


def refused(name: str, picture: Picture, line: str, *remedy: str, **more: Any) -> Expected:
    return Expected(*_file_and_class(name), "error", picture, line, remedy=remedy, **more)


#: In the manner of public ones.
PUBLIC = (
    fine("faces:FaceAdapter", p.face),
    warned(
        "faces:StyleAdapter", p.style, "out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)",
        "attention_mask[..., :", says=("mask", "sdpa"), served=of_the_prompt,
    ),
    fine("consistent:StyleAligned", p.aligned),
    warned(
        "consistent:ConsistentSelfAttention", p.consistent, "self.bank[size] = shared", "local variable",
        says=("self.bank", "each sampling"), uncompiled=True, mended=p.shared,
    ),
    warned(
        "editing:AttentionStore", p.sdpa, "self.maps.append(", "torch.compiler.is_compiling()",
        says=("self.maps",), uncompiled=True,
    ),
    fine("editing:PromptToPrompt", p.prompt_to_prompt),
    warned(
        "editing:MutualSelfAttention", p.mutual_from(12), "self.layer += 1", "sigmas", "blocks",
        says=("self.layer",), uncompiled=True, mended=p.mutual,
    ),
    fine("adapters:LoRAAttention", p.lora),
    refused(
        "adapters:NamedLoRA", p.lora, "def __init__(self, hidden_size, cross_attention_dim, adapter_name)",
        "adapter_name=", says=("adapter_name",),
    ),
    fine("adapters:CustomDiffusion", p.custom_diffusion),
    fine("memory:XFormersAttention", p.sdpa),
    fine("memory:MemoryEfficientAttention", p.sdpa),
    fine("memory:SlicedAttention", p.sdpa),
    refused("needs_xformers:XFormersOnly", p.sdpa, "import xformers.ops", "xformers", says=("xformers",)),
    refused(
        "guidance:PerturbedAttention", p.perturbed, "original, perturbed = hidden_states.chunk(2)", "batch",
        says=("batch 1",),
    ),
    refused(
        "guidance:SmoothedEnergy", p.smoothed, "image = q.transpose(1, 2).reshape(batch, channels, size, size)",
        "square", says=("13×11",),
    ),
    fine("guidance:FreeUScaling", p.freeu),
    fine("regions:RegionalPrompts", p.regional),
    warned(
        "regions:TimeGate", p.first_calls(16, 1.5), "self.calls += 1", "sigmas",
        says=("self.calls",), uncompiled=True, mended=p.above(0.75, 1.5),
    ),
    warned(
        "reference:ReferenceWriter", p.sdpa, "    bank = tokens", "self.bank",
        says=("bank", "global"), uncompiled=True,
    ),
    warned("reference:ReferenceReader", p.sdpa, "read = bank", "self.bank", says=("bank", "global"), uncompiled=None),
    warned(
        "merging:TokenMerging", p.merged, "def forward(", "mask", says=("mask",), mended=p.merged_without_mask,
    ),
)  # fmt: skip

#: Everyday forms, and mistakes.
EVERYDAY = (
    warned(
        "forms:SDPA", p.sdpa, "out = F.scaled_dot_product_attention(query", "attention_mask[:, None]",
        says=("mask (batch, queries, keys)", "sdpa"), served=three_dimensional,
    ),
    fine("forms:HandsAllOn", p.times(0.9)),
    warned(
        "forms:HandsAllOnToSDPA", p.times(0.9), "out = F.scaled_dot_product_attention(query",
        "attention_mask[:, None]", says=("mask (batch, queries, keys)", "sdpa"), served=three_dimensional,
    ),
    fine("forms:Wrapped", p.sdpa),
    fine("forms:NoGradient", p.sdpa),
    warned(
        "uncompiled:NeverCompiled", p.sdpa, "@torch.compiler.disable", "@torch.compiler.disable",
        says=("torch.compiler.disable",), uncompiled=True,
    ),
    warned(
        "forms:Partial", p.times(0.8), "class Partial", "def forward(self", says=("functools",), uncompiled=True,
    ),
    fine("forms:Mixed", p.times(0.5)),
    fine("forms:OtherFirstName", p.sdpa),
    refused(
        "dtypes:HalfOnly", p.sdpa, "return attn.to_out[0](out", ".to(hidden_states.dtype)",
        says=("float16", "float32"), within=3e-2, on={"sd15 in float16": "warning"},
    ),
    warned(
        "dtypes:DistanceBias", p.near, "out = scores.softmax(dim=-1) @ v", "dtype",
        says=("float16",), on={"sd15 in float16": "error"},
    ),
    fine("kernels:SharpKernel", p.sharp, on={"flux": "fine"}),
    warned(
        "kernels:PlainKernel", p.sdpa, "out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)",
        "mask[:, None]", says=("mask (batch, queries, keys)", "sdpa"), served=three_dimensional,
        on={"flux": "warning"},
    ),
    warned(
        "kernels:FadingKernel", p.faded, "self.step += 1", "transformer_options=None", "sigmas",
        says=("self.step",), uncompiled=True, mended=p.faded_by_sigma, on={"flux": "warning"},
    ),
    warned(
        "kernels:LoudKernel", p.sdpa, "print(", "torch.compiler.is_compiling()", says=("print",), uncompiled=True,
        on={"flux": "warning"},
    ),
    fine("standins:GuideAttention", p.times(0.9)),
    fine("standins:HostAttention", p.sdpa),
    fine("standins:NoAttention", p.unchanged),
    warned(
        "hazards:CountsCalls", p.counted, "self.step += 1", "sigmas",
        says=("self.step",), uncompiled=True, mended=p.by_sigma,
    ),
    warned(
        "hazards:Prints", p.sdpa, "print(", "torch.compiler.is_compiling()", says=("print",), uncompiled=True,
    ),
    warned(
        "hazards:BranchesOnValue", p.clamped, "if hidden_states.abs().max() > 2:", "torch.where", uncompiled=True,
    ),
    warned(
        "hazards:BranchesOnItem", p.calmed, "spread = hidden_states.std().item()", "torch.where",
        says=(".item()",), uncompiled=True,
    ),
    warned(
        "hazards:GlobalStrength", p.sdpa, "return out * strength", "self.strength", says=("strength", "global"),
        uncompiled=None,
    ),
    warned("hazards:UsesNumpy", p.squashed, "squashed = np.tanh(", "torch", says=("NumPy",), uncompiled=None),
    refused(
        "mistakes:NoSuperInit", p.times(0.5), "def __init__(self, gain=0.5)", "super().__init__()",
        says=("super().__init__()",),
    ),
    refused("mistakes:NotImported", p.sdpa, "out = softmax(", "import", says=("softmax", "not")),
)  # fmt: skip

EXPECTED = (*PUBLIC, *EVERYDAY)

#: Those that another one stands for on the host, but for ``--all``: what the check has to see is the same in both.
ALIKE = {
    "editing:MutualSelfAttention": "hazards:CountsCalls",  # counts its calls
    "regions:TimeGate": "hazards:CountsCalls",
    "adapters:CustomDiffusion": "adapters:LoRAAttention",  # weights of its own
    "memory:MemoryEfficientAttention": "memory:SlicedAttention",  # the same numbers, a part at a time
    "reference:ReferenceReader": "hazards:GlobalStrength",  # reads a global
    "forms:Mixed": "forms:HandsAllOn",  # ``*args, **kwargs``
    "forms:HandsAllOnToSDPA": "forms:SDPA",  # no mask of three dimensions
    "forms:Wrapped": "forms:NoGradient",  # another function around its own
    "standins:HostAttention": "standins:GuideAttention",  # calls ComfyUI's own module
    "hazards:BranchesOnItem": "hazards:BranchesOnValue",  # a branch by a value
}
