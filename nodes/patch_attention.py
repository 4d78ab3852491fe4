"""Patch Attention Processors."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..checks import Finding, Report
from ..processors import (
    DEFAULT_PROCESSOR,
    SITE_KINDS,
    ModuleProcessor,
    Processor,
    Site,
    UnknownProcessor,
    UnknownSites,
    find_sites,
    get_processor,
    processor_names,
    select_sites,
)
from ..processors.attach import AttentionPatch, attach
from ..processors.foreign import OVERRIDE, foreign_patches
from ..status import Record
from .host import new_record, schema, ui

ProcessorType = io.Custom("ONEDIFF_PROCESSOR")


class OneDiffPatchAttention(io.ComfyNode):
    """Replaces the attention processors of a model's sites, on a clone."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="OneDiffPatchAttention",
            display_name="Patch Attention Processors",
            category="OneDiff",
            description="Computes attention with another processor at the chosen places of the model.",
            search_aliases=["attention processor", "sdpa", "set_attn_processor", "onediff"],
            not_idempotent=True,
            has_intermediate_output=True,
            inputs=[
                io.Model.Input("model"),
                io.Combo.Input(
                    "processor",
                    options=processor_names(),
                    default=DEFAULT_PROCESSOR,
                    tooltip="sdpa: PyTorch's fused attention, everywhere. reference: the plain formula, slow, for "
                    "comparison, in UNets only.",
                ),
                io.Combo.Input(
                    "sites",
                    options=list(SITE_KINDS),
                    default="all",
                    tooltip="self: tokens attend to the picture. cross: tokens attend to the prompt.",
                ),
                io.String.Input(
                    "blocks",
                    default="",
                    tooltip="Names of places, commas between, * allowed: middle_block, double_blocks.*. Empty: all.",
                ),
                ProcessorType.Input(
                    "custom", optional=True, tooltip="A loaded processor; takes the place of “processor”."
                ),
            ],
            outputs=[io.Model.Output(display_name="model")],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def validate_inputs(cls, **kwargs) -> bool:
        """Values that this version does not know become findings, never a refused prompt."""
        return True

    @classmethod
    def execute(cls, model, processor, sites, blocks, custom=None) -> io.NodeOutput:
        record = new_record(cls.hidden)
        patched = model.clone()
        all_sites = find_sites(patched.get_model_object("diffusion_model"))
        findings: list[Finding] = []
        if sites not in SITE_KINDS:
            findings.append(_unknown("sites", sites, ", ".join(SITE_KINDS), "all"))
            sites = "all"
        try:
            chosen = select_sites(all_sites, sites, blocks)
        except UnknownSites as error:
            findings.append(_no_such_site(error))
            record.update(state="failed", check=Report(0, len(all_sites), tuple(findings)).as_dict())
            raise ValueError(f"Patch Attention Processors (node {cls.hidden.unique_id}): {error}") from error
        name, instance = ("custom", custom) if isinstance(custom, Processor) else _processor(processor, findings)
        chosen = _fitting(chosen, instance, findings)

        patches = {"sites": [{"site": site.path, "processor": name} for site in chosen], "foreign": []}
        superseded = patched.model_options["transformer_options"].get(OVERRIDE)
        attach(patched, AttentionPatch(chosen, instance, _observer(record, patches, superseded), superseded))
        record.update(state="patched", patches=patches, check=Report(0, len(all_sites), tuple(findings)).as_dict())
        return io.NodeOutput(patched, ui=ui(record))


def _processor(name: str, findings: list[Finding]) -> tuple[str, Processor]:
    """The processor of that name, or the default with a finding."""
    try:
        return name, get_processor(name)
    except UnknownProcessor as error:
        findings.append(_unknown("processor", name, ", ".join(error.known), DEFAULT_PROCESSOR))
        return DEFAULT_PROCESSOR, get_processor(DEFAULT_PROCESSOR)


def _fitting(sites: list[Site], processor: Processor, findings: list[Finding]) -> list[Site]:
    """The sites that this kind of processor can take the place of; the others become one finding."""
    if not isinstance(processor, ModuleProcessor):
        return sites
    unfit = [site for site in sites if not site.has_projections]
    if unfit:
        findings.append(
            Finding(
                severity="warning",
                path=unfit[0].path,
                cls=type(unfit[0].module).__name__,
                where="blocks",
                what=f"{len(unfit)} of {len(sites)} chosen places keep their own attention",
                why="This processor needs to_q, to_k, to_v and to_out, which these blocks do not have.",
                fix="Use sdpa for this model.",
            )
        )
    return [site for site in sites if site.has_projections]


def _unknown(name: str, value: str, known: str, used: str) -> Finding:
    return Finding(
        severity="warning",
        path=name,
        cls="OneDiffPatchAttention",
        where="input",
        what=f"{name} {value!r} is not known here; {used!r} is used instead",
        why="The workflow comes from a newer version, or from a machine that has more.",
        fix=f"Choose one of {known}.",
    )


def _no_such_site(error: UnknownSites) -> Finding:
    return Finding(
        severity="error",
        path="blocks",
        cls="OneDiffPatchAttention",
        where="input",
        what=f"{error.glob!r} matches no attention site of this model",
        why="The run stops, because a patch that silently reaches nothing would look as if it worked.",
        fix=f"Near matches: {', '.join(error.near)}." if error.near else "Leave blocks empty for all sites.",
    )


def _observer(record: Record, patches: dict[str, Any], superseded: Any):
    """Notes in the record what other nodes put on attention by the time that the model samples."""

    def observe(options: dict[str, Any]) -> None:
        options = {key: value for key, value in options.items() if key != OVERRIDE or value is not superseded}
        foreign = foreign_patches(options)
        if foreign != record["patches"]["foreign"]:
            record.update(patches={**patches, "foreign": foreign})

    return observe
