"""What is looked at before a model's first step: its modules, its attention, the blocks that can be compiled."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ...checks import Finding, check_model
from ...checks.reaching.reach import FindReach
from ...patching.explicit_forward import needs_repair
from ...patching.foreign import OVERRIDE, counted_patches
from ...patching.user_code import Cancel
from ...patching.wrappers import APPLY_MODEL, KEY
from ...processors import find_sites
from ...processors.attention_patch import AttentionPatch, processors_of
from ..blocks.regions import find_regions
from ..measuring.model_memory import ModelMemory, memory_of


class PreparedModel:
    """A diffusion model that was checked and divided into regions.

    ``check`` is the report as the record has it; ``unfit`` maps the path of each region with a finding to its reason,
    ``without_operators`` those that only graphs with operators in them can hold.
    ``sites`` maps the path of each region to the modules in it that compute attention.
    ``called_directly`` holds the modules whose class has no forward of its own, because it overrides ``__call__``.
    """

    def __init__(
        self,
        diffusion_model: nn.Module,
        patches: Sequence[AttentionPatch],
        findings: tuple[Finding, ...],
        find_reach: FindReach | None,
        scope: str,
        dtype: torch.dtype,
        device: torch.device,
        cancel: Cancel | None = None,
    ):
        sites = find_sites(diffusion_model)
        report = check_model(
            diffusion_model,
            len(sites),
            attached=processors_of(patches),
            find_reach=find_reach,
            dtype=dtype,
            device=device,
            cancel=cancel,
        ).extended(findings)
        self.check = report.as_dict()
        self.memory: ModelMemory = memory_of(diffusion_model)
        self.regions = find_regions(diffusion_model, sites, scope)
        self.sites = {
            r.path: [s.module for s in sites if s.module is r.module or s.path.startswith(f"{r.path}.")]
            for r in self.regions
        }
        self.called_directly = [module for module in diffusion_model.modules() if needs_repair(type(module))]
        broken = {region.path: report.under(region.path) for region in self.regions}
        self.unfit, self.without_operators = _reasons(broken, False), _reasons(broken, True)

    def reasons(self, path: str) -> tuple[str | None, str | None]:
        """Why a region is not compiled, and why not without operators."""
        return self.unfit.get(path), self.without_operators.get(path)


def _reasons(broken: dict[str, list[Finding]], as_operator: bool) -> dict[str, str]:
    found = {path: [one for one in findings if one.as_operator is as_operator] for path, findings in broken.items()}
    return {path: findings[0].brief for path, findings in found.items() if findings}


def contents(diffusion_model: nn.Module, patches: Sequence[AttentionPatch]) -> list[tuple[str, int]]:
    """What a model consists of: while this is the same, it need not be prepared again."""
    modules = [(path, id(module)) for path, module in diffusion_model.named_modules()]
    return modules + [(site.path, id(processor)) for site, processor in processors_of(patches)]


def shape_of(inputs: Any, control: Any, options: dict[str, Any]) -> Hashable:
    """What must be equal for two steps to be compared: the sizes of all inputs, whether a ControlNet acts, which of the
    prompts are in the batch, whether another node overrides attention, and how many patches are on this call: guidance
    by perturbed attention or skipped layers calls the model once more with some of its own. Which blocks run in the end
    is known only then."""
    leaves = pytree.tree_leaves(inputs)
    sizes = tuple((tuple(leaf.shape), leaf.dtype) for leaf in leaves if isinstance(leaf, torch.Tensor))
    prompts = tuple(options.get("cond_or_uncond") or ())
    return (sizes, control is not None, prompts, _overridden(options), counted_patches(options))


def _overridden(options: dict[str, Any]) -> bool:
    """Whether there is an attention override that was not there before this pack's processors."""
    override = options.get(OVERRIDE)
    if override is None:
        return False
    ours = ((options.get("wrappers") or {}).get(APPLY_MODEL) or {}).get(KEY) or ()
    return not any(isinstance(one, AttentionPatch) and one.superseded is override for one in ours)
