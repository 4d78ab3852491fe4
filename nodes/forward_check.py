"""Forward Check."""

from __future__ import annotations

import json
import logging
from typing import Any

from comfy_api.latest import io

from ..checks import Finding, check_model
from ..compilers import PROOFS
from ..host.example_inputs import find_reach, replaced_parts
from ..host.known_values import known, model_given
from ..host.prompt_ends import CANCEL
from ..host.server import new_record, schema, seen_now, ui
from ..node_ids import FORWARD_CHECK
from ..patching.wrappers import attached
from ..processors import DEFAULT_PROCESSOR, find_sites
from ..processors.attention_patch import AttentionPatch, processors_of
from ..status.plain import plain_check

log = logging.getLogger(__name__)

REPORT, STOP = "report", "stop"


class OneDiffForwardCheck(io.ComfyNode):
    """Looks for modules that cannot be called, before a compiler meets them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=FORWARD_CHECK,
            display_name="Forward Check",
            category="OneDiff",
            description="Finds modules without a usable forward before they are compiled, and says what to do.",
            search_aliases=["NotImplementedError", "forward", "compatibility", "onediff"],
            not_idempotent=True,
            has_intermediate_output=True,
            inputs=[
                io.Model.Input("model"),
                io.Combo.Input(
                    "on_problem",
                    options=[REPORT, STOP],
                    default=REPORT,
                    tooltip="report: show the findings and go on. stop: end the run when there is an error.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model"),
                io.String.Output(display_name="report", tooltip="All findings as JSON."),
                io.Boolean.Output(display_name="ok", tooltip="True when no error was found."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def validate_inputs(cls, **kwargs: Any) -> bool:
        """A value that this version does not know means "report"."""
        return True

    @classmethod
    def execute(cls, model: Any, on_problem: Any) -> io.NodeOutput:
        record = new_record(cls.hidden, on_problem=on_problem)
        model_given("Forward Check", FORWARD_CHECK, model, record)
        findings: list[Finding] = []
        stop = known(FORWARD_CHECK, "on_problem", on_problem, (REPORT, STOP), findings) == STOP
        patches = attached(model, AttentionPatch)
        findings += [_rejected(patch.rejected) for patch in patches if patch.rejected]
        diffusion_model = model.get_model_object("diffusion_model")
        PROOFS.wait_for_imports(CANCEL.check)  # the check imports Dynamo, and so does a backend that starts
        report = check_model(
            diffusion_model,
            len(find_sites(diffusion_model)),
            replaced_parts(model),
            processors_of(patches),
            find_reach(model),
            dtype=model.model.get_dtype_inference(),
            device=model.load_device,
            cancel=CANCEL,
        )
        report = report.extended(tuple(findings))
        state = "failed" if stop and not report.ok else "checked"
        record.update(state=state, check=report.as_dict(), **seen_now(record, model))
        log.info("Forward Check (node %s): %s", record["node"], record["summary"])
        if stop and not report.ok:
            raise ValueError(f"Forward Check (node {record['node']}) found {report.findings[0]}")
        return io.NodeOutput(
            model, json.dumps(plain_check(report.as_dict()), ensure_ascii=False), report.ok, ui=ui(record)
        )


def _rejected(rejected: dict[str, str]) -> Finding:
    """What is checked here is the one that took its place."""
    where, what = rejected["where"], rejected["what"]
    return Finding(
        severity="warning",
        path="processor",
        cls=rejected["class"],
        where=where,
        what=f"{rejected['processor']} is not in this model; {DEFAULT_PROCESSOR} is",
        why=f"{rejected['by']} did not take it: {what}{f' ({where})' if where else ''}.",
        fix=rejected["fix"] or "The report of that node says what to do.",
        rule="processor-not-used",
    )
