"""Speed Report."""

from __future__ import annotations

import json
import logging
from typing import Any

import comfy.model_management
import torch
from comfy_api.latest import io
from comfy_api.latest import ui as host_ui

from ..checks import Finding, Report
from ..compilers import CLEARED, Session
from ..host.known_values import model_given, number_given, refuse
from ..host.prompt_ends import class_of
from ..host.sample_both_ways import BothWays
from ..host.server import new_record, schema, ui
from ..host.user_settings import locale
from ..node_ids import SPEED_REPORT
from ..patching.user_errors import said
from ..patching.wrappers import attached
from ..processors.attention_patch import AttentionPatch
from ..speed_report.figures import SpeedReport
from ..speed_report.plot import plot
from ..status import Record
from ..status.model_file import model_file
from ..status.plain import plain

log = logging.getLogger(__name__)


TITLE = "Speed Report"
STEPS, MOST_STEPS = 8, 200
CFG, MOST_CFG = 8.0, 100.0


class OneDiffSpeedReport(io.ComfyNode):
    """Samples uncompiled and compiled, by turns, and draws what it showed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=SPEED_REPORT,
            display_name="Speed Report",
            category="OneDiff",
            description="Samples the model uncompiled and compiled, by turns, and shows what compiling gains.",
            search_aliases=["benchmark", "speed", "faster", "compare", "it/s", "onediff"],
            not_idempotent=True,
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="With OneDiff Compile in front: its settings are used."),
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                io.Latent.Input("latent", tooltip="Its size and batch are what is measured."),
                io.Int.Input("steps", default=STEPS, min=1, max=MOST_STEPS, tooltip="Steps of a picture."),
                io.Float.Input("cfg", default=CFG, min=0.0, max=MOST_CFG, step=0.1, round=0.01),
            ],
            outputs=[
                io.Image.Output(display_name="plot"),
                io.String.Output(display_name="report", tooltip="All figures as JSON."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo, io.Hidden.prompt],
        )

    @classmethod
    def fingerprint_inputs(cls, **kwargs: Any) -> int:
        """After the measurements were cleared the report is made anew."""
        return CLEARED.marks.measurements

    @classmethod
    def execute(cls, model: Any, positive: Any, negative: Any, latent: Any, steps: Any, cfg: Any) -> io.NodeOutput:
        record = new_record(cls.hidden, steps=steps, cfg=cfg)
        model_given(TITLE, SPEED_REPORT, model, record)
        _check_samples(latent, positive, negative, record)
        findings: list[Finding] = []
        steps = int(number_given(SPEED_REPORT, "steps", steps, STEPS, 1, MOST_STEPS, findings))
        cfg = number_given(SPEED_REPORT, "cfg", cfg, CFG, 0.0, MOST_CFG, findings)
        file = model_file(cls.hidden.prompt, cls.hidden.unique_id, class_of)
        both = BothWays(model, positive, negative, latent, steps, cfg, file)
        waiting = [session.record for session in attached(model, Session) if session.record["state"] == "idle"]
        _tell(waiting, state="measuring")
        try:
            return cls._reported(both, record, waiting, findings)
        except comfy.model_management.InterruptProcessingException:
            record.update(state="idle", progress=None)
            _tell(waiting, state="idle")
            raise
        except Exception as error:
            reason = {"requested": both.settings.backend, "used": None, "version": None, "reason": said(error)}
            record.update(state="failed", progress=None, backend=reason)
            _tell(waiting, state="idle")
            raise

    @classmethod
    def _reported(cls, both: BothWays, record: Record, waiting: list[Record], findings: list[Finding]) -> io.NodeOutput:
        report = both.report(record)
        pixels, note = plot(report, locale())
        image = torch.from_numpy(pixels).float().div(255).unsqueeze(0)  # (height, width, 3) to (1, height, width, 3)
        figures = report.as_dict()
        figures["notes"] += [f"{finding.what}." for finding in findings] + ([note] if note else []) + taken(both.model)
        assert both.session is not None
        fields = _fields(report, both.session, findings)
        record.update(**fields)
        for other in waiting:
            other.sampled(SPEED_REPORT)
        _tell(waiting, **{name: fields[name] for name in fields.keys() - {"check", "patches"}})
        log.info("Speed Report (node %s): %s", record["node"], report.verdict)
        shown = {**host_ui.PreviewImage(image, cls=cls).as_dict(), **ui(record)}
        return io.NodeOutput(image, json.dumps(plain(figures), ensure_ascii=False), ui=shown)


def taken(model: Any) -> list[str]:
    """What is to be said of patches whose places other nodes took in the last sampling."""
    said = []
    for patch in attached(model, AttentionPatch):
        others, total = patch.calls.taken, len(patch.sites)
        if others is not None:
            names = ", ".join(sorted({one["processor"] for one in patch.described}))
            whose = f": “{others['by']}” computed the others" if others["by"] else ""
            said.append(f"{names} computed attention at {total - others['sites']} of {total} places{whose}.")
    return said


def _tell(records: list[Record], **fields: Any) -> None:
    """The same for Compile nodes whose settings are measured here: nothing else samples with their sessions."""
    for record in records:
        record.update(**fields)


def _cost(report: SpeedReport) -> dict[str, Any]:
    """What compiling took, as the plot has it: also where the graphs are from an earlier run."""
    return {} if report.cost is None else {"seconds": round(report.cost.seconds, 1), "earlier": not report.cost.fresh}


def _check_samples(latent: Any, positive: Any, negative: Any, record: Record) -> None:
    """Looks whether what is sampled is what it has to be.

    Raises:
        WrongInput: when it is not.
    """
    if not isinstance(latent, dict) or not hasattr(latent.get("samples"), "is_nested"):
        refuse(TITLE, SPEED_REPORT, "latent", latent, "a LATENT", "Connect an empty latent.", record)
    for name, value in (("positive", positive), ("negative", negative)):
        pairs = isinstance(value, list) and all(isinstance(pair, list | tuple) and len(pair) > 1 for pair in value)
        if not pairs:
            refuse(TITLE, SPEED_REPORT, name, value, "a CONDITIONING", "Connect a text encoder.", record)


def _fields(report: SpeedReport, session: Session, findings: list[Finding]) -> dict[str, Any]:
    """The report as fields of the status record, in place of the session's few timed steps."""
    measured: Record = session.record
    ours = [sampling for sampling in report.samplings if not sampling.without]
    timed = [(ms, sampling.compiled) for sampling in ours for ms in sampling.steps_ms][-40:]
    compiled = report.compiled
    kept = {"faster": "compiled", "same": "compiled"}.get(report.outcome, "uncompiled")
    if report.noisy:
        kept = "compiled"
    by_patch_alone = report.noisy or compiled is None or kept == "uncompiled"
    current = compiled.median_ms if compiled and kept == "compiled" else report.uncompiled.median_ms
    figures = report.as_dict()
    check = measured["check"] or Report(0, 0, ()).as_dict()
    check = {
        **check,
        "warnings": check["warnings"] + len(findings),
        "findings": [*check["findings"], *(finding.as_dict() for finding in findings)],
    }
    return {
        **{name: measured[name] for name in ("patches", "parity", "memory")},
        "compile": measured["compile"] and {**measured["compile"], "stopped": None, **_cost(report)},
        "check": check if findings else measured["check"],
        "model": report.model,
        "state": "uncompiled" if kept == "uncompiled" else measured["state"],
        "progress": None,
        "backend": {**report.backend, "reason": report.reason or report.backend.get("reason")},
        "machine": report.machine,
        "measured_at": report.measured_at,
        "speed": {
            "without_ms": figures["without"]["median_ms"] if report.without else None,
            "computed": False,
            "patch_speedup": None if report.patch_noisy else figures["patch_speedup"],
            "total_speedup": None if report.patch_noisy and by_patch_alone else figures["total_speedup"],
            "eager_ms": figures["uncompiled"]["median_ms"],
            "compiled_ms": figures["compiled"]["median_ms"] if compiled else None,
            "speedup": figures["speedup"],
            "verdict": report.outcome if compiled and not report.noisy else None,
            "noisy": report.noisy,
            "per_second": round(1e3 / current, 3),
            "steps_ms": [round(ms, 2) for ms, _ in timed],
            "steps_kind": ["compiled" if way else "uncompiled" for _, way in timed],
            "kept": kept if compiled and not report.noisy else None,
            "breakeven_images": figures["breakeven_images"],
        },
    }
