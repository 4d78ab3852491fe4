"""The soak's workflows: four families, what changes from one prompt to the next, and what each is compared with."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

#: ComfyUI's own fused attention, which a graph can hold; without this it is one that reads free memory.
FUSED = ("--use-pytorch-cross-attention",)


@dataclass(frozen=True)
class Family:
    """Stand-ins of one family. ``width`` and ``pooled`` are the channels of the prompts; ``sites`` what the patch node
    may be asked for: its ``sites``, its ``blocks``, and their name for `AttentionAt`."""

    name: str
    model: str
    latent: str
    width: int
    pooled: int
    sites: tuple[tuple[str, str, str], ...]
    unet: bool = False
    flags: tuple[str, ...] = ()

    @property
    def files(self) -> dict[str, str]:
        """Stand-ins by name, and the models folder of each."""
        folders = {self.model: "diffusion_models", f"{self.model}_other": "diffusion_models"}
        return {**folders, f"{self.model}_lora": "loras"}


_UNET: dict[str, Any] = {"latent": "EmptyLatentImage", "unet": True}
_KINDS = (("all", "", ""), ("self", "", ""), ("cross", "", ""))

FAMILIES = {
    family.name: family
    for family in (
        Family("sd15", "sd15_small", width=768, pooled=768, sites=(*_KINDS, ("all", "middle_block", "middle")),
               **_UNET),
        Family("sdxl", "sdxl_vega", width=2048, pooled=1280, sites=(*_KINDS, ("all", "input_blocks", "input")),
               flags=FUSED, **_UNET),
        Family("flux", "flux_small", "EmptySD3LatentImage", 768, 768, flags=FUSED,
               sites=(("all", "", ""), ("all", "single_blocks.*", "single"))),
        Family("wan", "wan_small", "EmptyHunyuanLatentVideo", 4096, 768,
               sites=(*_KINDS, ("all", "blocks.0", "first"))),
    )
}  # fmt: skip

#: Our nodes, and what stands between them, in the order in which the MODEL passes them.
ORDER = ("lora", "override", "replacement", "patch", "compile")

#: Exact everywhere, exact in UNets only, and half of what attention is.
STATEFUL = ("custom/attention:Counting",)  # so blocks with it run uncompiled
EXACT = ("sdpa", "auto", "sliced", "custom/attention:Kernel", *STATEFUL)
EXACT_IN_UNETS = ("reference", "custom/attention:Module")
HALF, HALF_IN_UNETS = ("custom/attention:HalfKernel",), ("custom/attention:HalfModule",)


@dataclass(frozen=True)
class Workflow:
    """What one prompt is made with. ``lora``, ``override`` and ``replacement`` are strengths, None where it is not
    there; ``sites`` is a row of `Family.sites`."""

    processor: str = "sdpa"
    sites: int = 0
    patch: bool = True
    compile: bool = True
    scope: str = "blocks"
    keep_faster: bool = True
    order: tuple[str, ...] = ORDER
    lora: float | None = None
    override: float | None = None
    replacement: float | None = None
    width: int = 128
    height: int = 128
    batch: int = 1
    tokens: int = 77
    cfg: float = 1.0
    other_model: bool = False

    @property
    def overridden(self) -> bool:
        """Whether the other node's override computes attention at patched sites too: it does when it comes later, and
        where the processor is left to `auto`."""
        later = self.order.index("override") > self.order.index("patch")
        return self.override is not None and (not self.patch or later or self.processor == "auto")


@dataclass(frozen=True)
class Change:
    """One thing that somebody sets in the workflow: ``Change("batch", 2)``."""

    field: str
    value: Any

    def of(self, workflow: Workflow) -> Workflow:
        if self.field == "size":
            return replace(workflow, width=self.value[0], height=self.value[1])
        value: Any = tuple(self.value) if isinstance(self.value, list) else self.value
        set_: dict[str, Any] = {self.field: value}
        return replace(workflow, **set_)


def first(seed: int) -> Workflow:
    """What a seed starts with: half of them compile whether that is faster or not."""
    return Workflow(keep_faster=seed % 2 == 0)


def changes(family: Family, seed: int) -> Iterator[Change]:
    """Without end, the same for a seed each time."""
    chance = random.Random(f"{family.name} {seed}")
    now = first(seed)
    while True:
        change = _change(family, now, chance)
        now = change.of(now)
        yield change


def values(family: Family) -> dict[str, tuple[Any, ...]]:
    """What may be set, by field."""
    processors = EXACT + HALF + ((*EXACT_IN_UNETS, *HALF_IN_UNETS) if family.unet else ())
    return {
        "processor": processors,
        "sites": tuple(range(len(family.sites))),
        "patch": (True, False),
        "compile": (True, False),
        "scope": ("blocks", "attention", "model"),
        "lora": (None, 1.0, 0.5, -1.0),
        "override": (None, 0.5, 0.8),
        "replacement": (None, 0.5, 1.5),
        "size": ((128, 128), (192, 128), (128, 192)),
        "batch": (1, 2),
        "tokens": (77, 231),
        "cfg": (1.0, 4.0),
        "other_model": (False, True),
    }


def _change(family: Family, now: Workflow, chance: random.Random) -> Change:
    offered = values(family)
    fields = [*offered, "order"]
    weights = dict.fromkeys(fields, 1.0) | {"scope": 0.3, "processor": 2.0}
    # What takes our nodes out of the work does so for a few changes only.
    weights |= {name: 5.0 for name in ("patch", "compile") if not getattr(now, name)}
    if now.processor in STATEFUL:
        weights["processor"] = 8.0
    (name,) = chance.choices(fields, list(weights.values()))
    if name == "order":
        return Change(name, tuple(chance.sample(ORDER, len(ORDER))))
    current = (now.width, now.height) if name == "size" else getattr(now, name)
    return Change(name, chance.choice([value for value in offered[name] if value != current]))


Nodes = dict[str, tuple[str, dict[str, Any]]]


def prompt(family: Family, workflow: Workflow, number: int, stock: bool = False) -> dict[str, Any]:
    """The API prompt. ``stock``: without our nodes, with what theirs should give; another ``number`` samples anew."""
    sizes = {"width": workflow.width, "height": workflow.height, "batch_size": workflow.batch}
    if family.latent == "EmptyHunyuanLatentVideo":
        sizes["length"] = 9
    text = {"width": family.width, "pooled": family.pooled}
    name = f"{family.model}_other" if workflow.other_model else family.model
    nodes: Nodes = {
        "unet": ("UNETLoader", {"unet_name": f"{name}.safetensors", "weight_dtype": "default"}),
        "text": ("SoakConditioning", {**text, "tokens": workflow.tokens, "seed": 1}),
        "empty": ("SoakConditioning", {**text, "tokens": 77, "seed": 2}),
        "latent": (family.latent, sizes),
        "again": ("SoakAgain", {"latent": ["latent", 0], "number": number}),
    }
    last = "unet"
    for part, (kind, inputs) in chain(family, workflow, stock).items():
        nodes[part] = (kind, {"model": [last, 0], **inputs})
        last = part
    sampler = {
        "seed": 7,
        "steps": 3,
        "cfg": workflow.cfg,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
    }
    inputs = {"positive": ["text", 0], "negative": ["empty", 0], "latent_image": ["again", 0]}
    nodes["sampler"] = ("KSampler", {"model": [last, 0], **inputs, **sampler})
    nodes["keep"] = ("SoakKeep", {"latent": ["sampler", 0]})
    return {node: {"class_type": kind, "inputs": inputs} for node, (kind, inputs) in nodes.items()}


def chain(family: Family, workflow: Workflow, stock: bool) -> Nodes:
    """What the MODEL passes between the loader and the sampler."""
    kind, blocks, _ = family.sites[workflow.sites]
    parts: Nodes = {}
    if workflow.lora is not None:
        lora = {"lora_name": f"{family.model}_lora.safetensors", "strength_model": workflow.lora}
        parts["lora"] = ("LoraLoaderModelOnly", lora)
    if workflow.replacement is not None:
        parts["replacement"] = ("SoakReplacement", {"strength": workflow.replacement})
    if stock:
        expected = attention(family, workflow)
        if (expected["inside"], expected["outside"]) != (1.0, 1.0):
            parts["override"] = ("SoakAttentionAt", expected)
    else:
        if workflow.override is not None:
            parts["override"] = ("SoakOverride", {"strength": workflow.override})
        if workflow.patch:
            patch = {"processor": workflow.processor, "sites": kind, "blocks": blocks, "quality": "exact"}
            parts["patch"] = ("OneDiffPatchAttention", patch)
        if workflow.compile:
            settings: dict[str, Any] = {"backend": "inductor", "effort": "fast start", "if_unfit": "run uncompiled"}
            settings |= {"scope": workflow.scope, "keep_faster": workflow.keep_faster}
            parts["compile"] = ("OneDiffCompile", settings)
    return {part: parts[part] for part in workflow.order if part in parts}


def attention(family: Family, workflow: Workflow) -> dict[str, Any]:
    """What attention should be, as inputs of `AttentionAt`."""
    kind, _, place = family.sites[workflow.sites]
    outside = 1.0 if workflow.override is None else workflow.override
    inside = outside
    if workflow.patch and not workflow.overridden and workflow.processor != "auto":
        inside = 0.5 if workflow.processor in HALF + HALF_IN_UNETS else 1.0
    if inside == outside:
        kind, place = "all", ""
    return {"inside": inside, "outside": outside, "kind": kind, "place": place}


def described(workflow: Workflow) -> dict[str, Any]:
    """What is set other than at first, for the log."""
    usual = asdict(Workflow())
    return {name: value for name, value in asdict(workflow).items() if value != usual[name]}
