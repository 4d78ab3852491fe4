"""Patch Attention Processors."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import comfy.model_management
import torch
from comfy_api.latest import io

from ..checks import Finding, Report
from ..compilers import PROOFS
from ..host.known_values import known, model_given, name_given, text_given
from ..host.loading.at_sites import Put, loaded_or_refused
from ..host.offered_processors import (
    Chosen,
    choices,
    choose,
    fingerprint,
    not_listed,
    not_made,
    processor_error,
    prove_ahead,
)
from ..host.prompt_ends import CANCEL
from ..host.server import computes_with_sdpa, executing_class, executing_prompt, new_record, schema, seen_now, ui
from ..node_ids import PATCH_ATTENTION
from ..patching.foreign import HOSTS_OWN, OVERRIDE, foreign_patches
from ..patching.user_code import Attendance
from ..patching.wrappers import attach, attached
from ..processors import (
    SITE_KINDS,
    BlocksTooLong,
    Processor,
    Site,
    UnknownSites,
    find_sites,
    select_sites,
)
from ..processors.attention_patch import AttentionPatch
from ..processors.choosing.auto_patch import AUTO, AutoPatch
from ..processors.choosing.candidates import QUALITIES, Candidate, candidates
from ..processors.choosing.measured_patch import MeasuredPatch
from ..processors.kernels.kernel import Kernel
from ..processors.loaded.file import LoadedFile
from ..processors.site_calls import SiteCalls
from ..status import Record
from ..status.plain import plain
from .patch_findings import fitting, no_processor, no_such_site, nothing_chosen
from .processor_type import ProcessorType

log = logging.getLogger(__name__)


class OneDiffPatchAttention(io.ComfyNode):
    """Replaces the attention processors of a model's sites, on a clone."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=PATCH_ATTENTION,
            display_name="Patch Attention Processors",
            category="OneDiff",
            description="Computes attention with another processor at the chosen places of the model.",
            search_aliases=[
                "attention processor",
                "sdpa",
                "sage attention",
                "faster",
                "accelerate",
                "set_attn_processor",
                "onediff",
            ],
            not_idempotent=True,
            has_intermediate_output=True,
            inputs=[
                io.Model.Input("model"),
                io.Combo.Input(
                    "processor",
                    options=choices(),
                    default=AUTO,
                    tooltip="auto: tries what this machine has in the first step and keeps what is faster. sdpa: "
                    "PyTorch's fused attention, everywhere. sliced: little memory. sage, flash, xformers and others: "
                    "packages, on GPUs; the report says how to get those that are missing. host/…: ComfyUI's own. "
                    "reference: the plain formula, slow, in UNets only. custom/…: your own Python files in "
                    "models/attention_processors. diffusers/…: diffusers' own, in UNets only.",
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
                io.Combo.Input(
                    "quality",
                    options=list(QUALITIES),
                    default=QUALITIES[0],
                    optional=True,
                    tooltip="Whether auto may take approximate kernels (sage, kitchen-int8). exact: it may not. fast: "
                    "it may, and the report says how far they are off.",
                ),
                ProcessorType.Input(
                    "custom",
                    optional=True,
                    tooltip="A loaded processor, from Load Attention Processor. It takes the place of “processor”, at "
                    "the places that its file names; others keep theirs.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model")],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def validate_inputs(cls, **kwargs: Any) -> bool:
        """Values that this version does not know become findings, never a refused prompt."""
        return True

    @classmethod
    def fingerprint_inputs(cls, processor: Any = None, **kwargs: Any) -> str:
        """A processor of the user's own is read again when its file has changed."""
        return fingerprint(processor)

    @classmethod
    def execute(
        cls, model: Any, processor: Any, sites: Any, blocks: Any, quality: Any = QUALITIES[0], custom: Any = None
    ) -> io.NodeOutput:
        record = new_record(cls.hidden, processor=processor, sites=sites, blocks=blocks, quality=quality)
        model_given("Patch Attention Processors", PATCH_ATTENTION, model, record)
        PROOFS.wait_for_imports(CANCEL.check)  # the check imports Dynamo, and so does a backend that starts
        patched = model.clone()
        all_sites = find_sites(patched.get_model_object("diffusion_model"))
        findings: list[Finding] = []
        kind = known(PATCH_ATTENTION, "sites", sites, SITE_KINDS, findings)
        blocks = text_given(PATCH_ATTENTION, "blocks", blocks, "", findings)
        quality = known(PATCH_ATTENTION, "quality", quality, QUALITIES, findings)
        prove_ahead(processor, quality, patched.load_device, patched.model.get_dtype_inference())
        check_interrupt = comfy.model_management.throw_exception_if_processing_interrupted
        try:
            chosen = select_sites(all_sites, kind, blocks, check_interrupt)
        except (UnknownSites, BlocksTooLong) as error:
            findings.append(no_such_site(error))
            record.update(state="failed", check=Report(0, len(all_sites), tuple(findings)).as_dict())
            raise ValueError(f"Patch Attention Processors (node {record['node']}): {error}") from error
        put: Put | None = None
        if isinstance(custom, LoadedFile):
            put = loaded_or_refused(custom, chosen, patched, findings, record)
            (name, instance, rejected), chosen = put.chosen, put.sites
        elif isinstance(custom, Processor):
            name, instance, rejected = Chosen("custom", custom)
        else:
            if custom is not None:
                findings.append(no_processor(custom))
            named = name_given(PATCH_ATTENTION, "processor", processor, AUTO, findings)
            name, instance, rejected = choose(PATCH_ATTENTION, named, chosen, patched, findings)
        places = fitting(chosen, name, instance, patched, findings)
        if not chosen:
            findings.append(nothing_chosen(kind))
        findings += not_listed({finding.where for finding in findings})

        superseded = patched.model_options["transformer_options"].get(OVERRIDE)
        node = f"Patch Attention Processors (node {record['node']})"
        measured = {
            "model": patched.get_model_object("diffusion_model"),
            "told": partial(_tell, record),
            "check_interrupt": check_interrupt,
        }
        observe = _observer(record, superseded)

        def put_on(put: Put | None, name: str, instance: Processor) -> AttentionPatch:
            told: dict[str, Any] = {
                "superseded": superseded,
                "ended": _ended(record),
                "failed": partial(processor_error, node, name, instance),
                "attendance": partial(Attendance, CANCEL),
                "prompt": executing_prompt,
            }
            if put is not None:
                return put.patch(patched, places, instance, observe, name=name, **told)
            if name == AUTO:
                return AutoPatch(
                    _left_alone(places, patched, superseded),
                    observe,
                    quality=quality,
                    is_left=bool(places),
                    candidates=partial(_candidates, patched.load_device, patched.model.get_dtype_inference(), quality),
                    **told,
                    **measured,
                )
            if isinstance(instance, Kernel):
                return MeasuredPatch(places, instance, observe, name=name, **told, **measured)
            return AttentionPatch(places, instance, observe, name=name, **told)

        try:
            patch = put_on(put, name, instance)
        except Attendance(CANCEL).stops:
            raise
        except BaseException as error:  # a person's class makes an instance for each place
            if isinstance(instance, Kernel):
                raise
            name, instance, rejected = not_made(name, instance, error, findings)
            patch = put_on(None, name, instance)
        patch.rejected = rejected and {**rejected, "by": node}
        attach(patched, patch)
        record.update(
            state="patched",
            patches={
                "sites": patch.described,
                "foreign": [],
                "rejected": rejected,
                "auto": patch.said if isinstance(patch, AutoPatch) else None,
                "untimed": None if not places or (isinstance(patch, MeasuredPatch) and patch.is_timed) else True,
            },
            check=Report(0, len(all_sites), tuple(findings)).as_dict(),
            **seen_now(record, patched),
        )
        if isinstance(patch, MeasuredPatch):
            patch.tell()
        log.info("Patch Attention Processors (node %s): %s", record["node"], record["summary"])
        return io.NodeOutput(patched, ui=ui(record))


def _left_alone(sites: list[Site], model: Any, override: Any) -> list[Site]:
    """The sites at which nobody has put anything: another node's override, or a processor that people named, stays."""
    if override is not None and not getattr(override, HOSTS_OWN, False):
        return []
    named = [patch for patch in attached(model, AttentionPatch) if patch.takes_place and not patch.chooses]
    taken = {one.path for patch in named for one in patch.sites}
    return [site for site in sites if site.path not in taken]


def _candidates(device: torch.device, dtype: torch.dtype, quality: Any) -> list[Candidate]:
    """Holds no model: it is a part of the patch, which the model's own clone holds."""
    return candidates(device, dtype, quality, hosts_is_sdpa=computes_with_sdpa())


def _tell(record: Record, fields: dict[str, Any]) -> None:
    """Notes in the record what a patch learned."""
    patches = {**record["patches"], **plain(fields)}
    if patches != record["patches"]:
        record.update(patches=patches)


def _observer(record: Record, superseded: Any) -> Callable[[dict[str, Any]], None]:
    """Notes in the record what other nodes put on attention by the time that the model samples."""

    def observe(options: dict[str, Any]) -> None:
        record.sampled(executing_class())  # also by a node with a loop of its own, which ends no sampling
        options = {key: value for key, value in options.items() if key != OVERRIDE or value is not superseded}
        foreign = plain(foreign_patches(options))  # as the record has it
        if foreign != record["patches"]["foreign"]:
            record.update(patches={**record["patches"], "foreign": foreign})

    return observe


def _ended(record: Record) -> Callable[[dict[str, Any] | None, SiteCalls], None]:
    """Notes in the record whether the processor took part in a sampling that ended, and at which of its sites."""

    def ended(unused: dict[str, Any] | None, calls: SiteCalls) -> None:
        record.sampled(executing_class())
        told = {"reached": calls.reached, "by_sdpa": calls.by_sdpa, "taken": calls.taken}
        patches = {**record["patches"], **told}
        not_finite = None if calls.gave_numbers else True
        if (patches, unused, not_finite) != (record["patches"], record["unused"], record["not_finite"]):
            record.update(patches=patches, unused=unused, not_finite=not_finite)

    return ended
