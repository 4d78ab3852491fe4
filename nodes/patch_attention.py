"""Patch Attention Processors."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import comfy.model_management
from comfy_api.latest import io

from ..checks import Finding, Report
from ..compilers import PROOFS
from ..host.known_values import known, model_given, name_given, shown, text_given
from ..host.loading.at_sites import Put, loaded_or_refused
from ..host.offered_processors import Chosen, choices, choose, fingerprint, not_listed, processor_error
from ..host.prompt_ends import CANCEL
from ..host.server import executing_class, executing_prompt, new_record, schema, seen_now, ui
from ..node_ids import PATCH_ATTENTION
from ..patching.foreign import OVERRIDE, foreign_patches
from ..patching.user_code import Attendance
from ..patching.wrappers import attach
from ..processors import (
    DEFAULT_PROCESSOR,
    SITE_KINDS,
    BlocksTooLong,
    Processor,
    Site,
    UnknownSites,
    Unsupported,
    find_sites,
    remedy,
    select_sites,
)
from ..processors.attention_patch import AttentionPatch, not_patchable_reason
from ..processors.loaded.file import LoadedFile
from ..status import Record
from ..status.plain import plain
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
                    default=DEFAULT_PROCESSOR,
                    tooltip="sdpa: PyTorch's fused attention, everywhere. reference: the plain formula, slow, for "
                    "comparison, in UNets only. custom/…: your own Python files in models/attention_processors; the "
                    "help page says how to write one. diffusers/…: diffusers' own, in UNets only.",
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
    def execute(cls, model: Any, processor: Any, sites: Any, blocks: Any, custom: Any = None) -> io.NodeOutput:
        record = new_record(cls.hidden)
        model_given("Patch Attention Processors", PATCH_ATTENTION, model, record)
        PROOFS.wait_for_imports()  # the check imports Dynamo, and so does a backend that starts
        patched = model.clone()
        all_sites = find_sites(patched.get_model_object("diffusion_model"))
        findings: list[Finding] = []
        kind = known(PATCH_ATTENTION, "sites", sites, SITE_KINDS, findings)
        blocks = text_given(PATCH_ATTENTION, "blocks", blocks, "", findings)
        check_interrupt = comfy.model_management.throw_exception_if_processing_interrupted
        try:
            chosen = select_sites(all_sites, kind, blocks, check_interrupt)
        except (UnknownSites, BlocksTooLong) as error:
            findings.append(_no_such_site(error))
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
                findings.append(_no_processor(custom))
            named = name_given(PATCH_ATTENTION, "processor", processor, DEFAULT_PROCESSOR, findings)
            name, instance, rejected = choose(PATCH_ATTENTION, named, chosen, patched, findings)
        fitting = _fitting(chosen, name, instance, patched, findings)
        if not chosen:
            findings.append(_nothing_chosen(kind))
        findings += not_listed({finding.where for finding in findings})

        superseded = patched.model_options["transformer_options"].get(OVERRIDE)
        node = f"Patch Attention Processors (node {cls.hidden.unique_id})"
        observe, failed = _observer(record, superseded), partial(processor_error, node, name, instance)
        ended, attendance = _ended(record), partial(Attendance, CANCEL)
        given = (fitting, instance, observe, superseded, name, ended, failed, attendance, executing_prompt)
        patch = AttentionPatch(*given) if put is None else put.patch(patched, *given)
        patch.rejected = rejected and {**rejected, "by": node}
        attach(patched, patch)
        record.update(
            state="patched",
            patches={"sites": patch.described, "foreign": [], "rejected": rejected},
            check=Report(0, len(all_sites), tuple(findings)).as_dict(),
            **seen_now(record, patched),
        )
        log.info("Patch Attention Processors (node %s): %s", record["node"], record["summary"])
        return io.NodeOutput(patched, ui=ui(record))


def _fitting(sites: list[Site], name: str, processor: Processor, model: Any, findings: list[Finding]) -> list[Site]:
    """The sites where this processor can be used; sites that it does not fit for the same reasons become one
    finding."""
    dtype = model.model.get_dtype_inference()
    unfit: dict[tuple[Unsupported, ...], list[Site]] = {}
    fitting = []
    for site in sites:
        reasons = processor.limits.not_supported_reasons(model.load_device, dtype, site.head_dim)
        not_patchable = not_patchable_reason(site, processor)
        if not_patchable is not None:
            reasons.insert(0, Unsupported(not_patchable))
        if reasons:
            unfit.setdefault(tuple(reasons), []).append(site)
        else:
            fitting.append(site)
    for reasons_here, places in unfit.items():
        findings.append(
            Finding(
                severity="warning",
                path=places[0].path,
                cls=type(places[0].module).__name__,
                where="blocks",
                what=f"{len(places)} of {len(sites)} chosen places keep their own attention",
                why=f"{'; '.join(reason.why for reason in reasons_here)}.",
                fix="Nothing is wrong with the picture." if name == DEFAULT_PROCESSOR else remedy(reasons_here),
            )
        )
    return fitting


def _nothing_chosen(kind: str) -> Finding:
    return Finding(
        severity="warning",
        path="sites",
        cls=PATCH_ATTENTION,
        where="input",
        what=f"this model has no {kind} attention site among the chosen blocks",
        why="Flux and its like attend to picture and prompt at once, which counts as self.",
        fix="Set sites to all.",
    )


def _no_such_site(error: UnknownSites | BlocksTooLong) -> Finding:
    what, fix = str(error).rstrip("."), "Name fewer, with * for what differs."
    if isinstance(error, UnknownSites):
        what = f"{shown(error.glob)} matches no attention site of this model"
        fix = f"Near matches: {', '.join(error.near)}." if error.near else "Leave blocks empty for all sites."
    return Finding(
        severity="error",
        path="blocks",
        cls=PATCH_ATTENTION,
        where="input",
        what=what,
        why="The run stops, because a patch that silently reaches nothing would look as if it worked.",
        fix=fix,
    )


def _no_processor(custom: Any) -> Finding:
    return Finding(
        severity="warning",
        path="custom",
        cls=PATCH_ATTENTION,
        where="input",
        what=f"custom is {shown(custom)}, not a loaded processor; the one that “processor” names is used",
        why="A script, or a node that is connected to it, gave a value of another kind.",
        fix="Connect a node that loads a processor, or nothing.",
    )


def _observer(record: Record, superseded: Any) -> Callable[[dict[str, Any]], None]:
    """Notes in the record what other nodes put on attention by the time that the model samples."""

    def observe(options: dict[str, Any]) -> None:
        record.sampled(executing_class())  # also by a node with a loop of its own, which ends no sampling
        options = {key: value for key, value in options.items() if key != OVERRIDE or value is not superseded}
        foreign = plain(foreign_patches(options))  # as the record has it
        if foreign != record["patches"]["foreign"]:
            record.update(patches={**record["patches"], "foreign": foreign})

    return observe


def _ended(record: Record) -> Callable[[dict[str, Any] | None, int | None, int], None]:
    """Notes in the record whether the processor took part in a sampling that ended."""

    def ended(unused: dict[str, Any] | None, reached: int | None, by_sdpa: int) -> None:
        record.sampled(executing_class())
        patches = {**record["patches"], "reached": reached, "by_sdpa": by_sdpa}
        if (patches, unused) != (record["patches"], record["unused"]):
            record.update(patches=patches, unused=unused)

    return ended
