"""Puts a loaded processor on a model: which sites it computes, and with what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import nn

from ...checks import Finding, Report
from ...node_ids import PATCH_ATTENTION
from ...patching.wrappers import KEY
from ...processors import Processor, Site, find_sites, processor_names
from ...processors.attention_patch import AttentionPatch
from ...processors.authored.recipe import recipe_of
from ...processors.loaded.added_patch import AddedPatch
from ...processors.loaded.custom_diffusion import CustomDiffusion, fits
from ...processors.loaded.file import EVERYWHERE, LoadedFile
from ...processors.loaded.ip_adapter import ImageAttention
from ...processors.loaded.loaded_patch import LoadedPatch
from ...processors.loaded.recipe import LoadedRecipe
from ...processors.loaded.unet_names import by_diffusers_name, cross_sites
from ...processors.loaded.unusable import Unusable
from ...processors.sources import custom as user
from ...status import Record
from ..offered_processors import CUSTOM, Chosen, choose
from ..prompt_ends import CANCEL
from .files import patcher_of


class Put(NamedTuple):
    """A processor for some sites, and the wrapper that puts it there."""

    chosen: Chosen
    sites: list[Site]
    file: LoadedFile

    def patch(self, model: Any, sites: list[Site], processor: Processor, *args: Any, **kwargs: Any) -> AttentionPatch:
        """The wrapper, made as ``AttentionPatch`` is. ComfyUI's memory management loads its weights with the model."""
        patch: AttentionPatch
        if isinstance(processor, ImageAttention):
            patch = AddedPatch(sites, processor, *args, **kwargs)
        else:
            patch = LoadedPatch(self.file.strength, sites, processor, *args, **kwargs)
        self._manage(model, patch)
        return patch

    def _manage(self, model: Any, patch: AttentionPatch) -> None:
        patcher = self.file.patcher
        if isinstance(patch, LoadedPatch) and patch.weights is not None:
            patcher = patcher_of(patch.weights)
        if patcher is not None and hasattr(model, "set_additional_models"):
            others = model.get_additional_models_with_key(KEY)
            model.set_additional_models(KEY, [*others, patcher])


def loaded_or_refused(
    file: LoadedFile, sites: Sequence[Site], model: Any, findings: list[Finding], record: Record
) -> Put:
    """A file's processor, for Patch Attention Processors.

    Raises:
        ValueError: when it does not fit the model; the record says so too.
    """
    findings += file.findings
    try:
        return loaded_at(PATCH_ATTENTION, file, sites, model, findings)
    except Unusable as error:
        why = "A loaded processor that reaches nothing would look as if it worked, so the run stops."
        fix = f"{error.fix[:1].upper()}{error.fix[1:]}."
        what = f"{error.shown} {error.what}"
        findings.append(Finding("error", "custom", PATCH_ATTENTION, "input", what, why, fix, "processor-file"))
        number = len(find_sites(model.get_model_object("diffusion_model")))
        record.update(state="failed", check=Report(0, number, tuple(findings)).as_dict())
        raise ValueError(f"Patch Attention Processors (node {record['node']}): {error}") from error


def loaded_at(node: str, file: LoadedFile, sites: Sequence[Site], model: Any, findings: list[Finding]) -> Put:
    """A file's processor at those of some sites that it has weights for.

    Raises:
        Unusable: when it does not fit the model, or none of the sites.
    """
    if file.kind == "ip-adapter":
        put = _ip_adapter(file, sites, model)
    elif file.kind == "custom-diffusion":
        put = _custom_diffusion(file, sites, model)
    else:
        put = _own_class(node, file, list(sites), model, findings)
    if not put.sites:
        raise _none_chosen(file)
    return put


def _ip_adapter(file: LoadedFile, sites: Sequence[Site], model: Any) -> Put:
    diffusion_model = model.get_model_object("diffusion_model")
    weights = file.weights
    assert weights is not None
    there = cross_sites(diffusion_model, find_sites(diffusion_model))
    numbers = {site.path: 2 * n + 1 for n, site in enumerate(there)}
    if not there:
        raise Unusable(file.shown, "is for UNets, which this model is not", "load SD 1.5 or SDXL, as the file says")
    if weights.numbers != sorted(numbers.values()):
        what = f"is for a model with {len(weights.numbers)} cross-attentions; this one has {len(there)}"
        raise Unusable(file.shown, what, "use the file that is made for this model: SD 1.5 and SDXL have their own")
    for site in there:
        module: Any = site.module
        theirs, ours = weights.inner(numbers[site.path]), module.to_q.weight.shape[0]
        if theirs != ours:
            what = f"has {theirs} channels where {site.path} has {ours}"
            raise Unusable(file.shown, what, "use the file that is made for this model")
    if not file.pictures:
        fix = "put IP-Adapter Processor between the two nodes"
        raise Unusable(file.shown, "is an IP-Adapter that was given no picture", fix)
    chosen = [site for site in sites if site.path in numbers]
    processor = ImageAttention(weights, numbers, file.pictures, file.strength).eval()
    return Put(Chosen(file.name, processor), chosen, file)


def _custom_diffusion(file: LoadedFile, sites: Sequence[Site], model: Any) -> Put:
    assert file.tensors is not None
    diffusion_model = model.get_model_object("diffusion_model")
    named = by_diffusers_name(diffusion_model, find_sites(diffusion_model))
    tensors: dict[str, Any] = {}
    for name, weights in file.tensors.items():
        site = named.get(name)
        if site is None or not fits(weights, site.module):
            what = f"has no place for {name}" if site is None else f"has other sizes at {site.path}"
            raise Unusable(file.shown, f"is for another model: this one {what}", "load the model that it was made for")
        tensors[site.path] = weights
    recipe = LoadedRecipe(CustomDiffusion, _place(model), file, tensors)
    chosen = [site for site in sites if recipe.names(site)]
    made: Any = recipe.first(chosen) if chosen else None
    return Put(Chosen(file.name, made), chosen, file)


def _own_class(node: str, file: LoadedFile, sites: list[Site], model: Any, findings: list[Finding]) -> Put:
    """The class that the metadata name: built in, or listed among the user's own."""
    name, tensors = file.processor, file.tensors or {}
    if name in processor_names():
        if tensors:
            raise Unusable(file.shown, f"has weights for {name}, which takes none", "name the class that they are for")
        found = choose(node, name, sites, model, findings)  # its package may be missing
        return Put(found, sites, file if found.rejected is None else file.with_strength(1.0))
    if not name.startswith(user.PREFIX):
        what = f"names the processor {name[:60]}, which is neither built in nor one of your own"
        raise Unusable(file.shown, what, f"name it as the node lists it: {user.PREFIX}<file>:<Class>")
    _check_places(file, sites, model)

    def made() -> nn.Module:
        site = next((site for site in named if site.has_projections), named[0] if named else None)
        first = CUSTOM.load(name, *_place(model), CANCEL, site=site)
        known = recipe_of(first)
        cls = known.cls if known is not None else type(first)
        recipe = LoadedRecipe(cls, _place(model), file, tensors)
        for each in named if recipe.per_site else []:
            recipe.instance(each)
        return recipe.first(named)

    named = [site for site in sites if not tensors or EVERYWHERE in tensors or site.path in tensors]
    if not named:
        raise _none_chosen(file)
    chosen = choose(node, name, named, model, findings, made)
    if chosen.rejected is not None:  # what takes its place is there in full
        return Put(chosen, named, file.with_strength(1.0))
    return Put(chosen._replace(name=f"{chosen.name} ({file.name})"), named, file)


def _none_chosen(file: LoadedFile) -> Unusable:
    return Unusable(file.shown, "names none of the chosen places", "choose others with “sites” and “blocks”")


def _check_places(file: LoadedFile, sites: Sequence[Site], model: Any) -> None:
    known = {site.path for site in find_sites(model.get_model_object("diffusion_model"))}
    wrong = next((name for name in file.tensors or {} if name != EVERYWHERE and name not in known), None)
    if wrong is not None:
        what = f"has weights for {wrong[:60]}, which is no attention of this model"
        raise Unusable(file.shown, what, "load the model that it was made for")


def _place(model: Any) -> tuple[Any, Any]:
    return model.load_device, model.model.get_dtype_inference()
