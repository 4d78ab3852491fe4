"""The sessions of copies: what compiles a VAE or a ControlNet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.model_management
import torch
from torch import nn

from ...checks import Finding
from ...checks.options import check_options
from ...compilers import PROOFS, CallSession, Settings
from ...compilers.session.calls.call_session import NO_MODULE
from ...status import Record
from ..compile_facts import asked_of
from ..prompt_ends import CANCEL
from ..server import host
from ..user_settings import compile_seconds
from . import control_net, vae

#: What findings on options may be of: these nodes have no other inputs.
INPUTS = ("backend", "weights")

#: Seconds in which the first call of a ControlNet is repeated both ways: others follow in the same picture.
CONTROL_SECONDS = 1.0


def compiled_vae(given: Any, settings: Settings, record: Record, findings: list[Finding]) -> Any:
    """A copy of a VAE whose blocks are compiled while it encodes or decodes; ``record`` says what became of it. The VAE
    itself stays as it is. One whose model is no module is handed on."""
    device = getattr(given.patcher, "load_device", None) or comfy.model_management.get_torch_device()
    session = _session("OneDiff Compile VAE", settings, record, device)
    model = given.first_stage_model
    if isinstance(model, nn.Module):
        _prepare(session, model, given.patcher, given.vae_dtype, findings)
    elif model is not None:  # else ComfyUI says at the first use what is wrong with it
        session.findings = tuple(findings)
        session.give_up(NO_MODULE)
        return given
    _take_over(vae.session_of(given), record)
    return vae.with_session(given, session)


def compiled_control_net(given: Any, settings: Settings, record: Record, findings: list[Finding]) -> Any:
    """A copy of a ControlNet, ControlLoRA or T2I-Adapter whose blocks are compiled while a model is sampled; ``record``
    says what became of it. The ControlNet itself stays as it is."""
    patcher = getattr(given, "control_model_wrapped", None)
    device = getattr(patcher, "load_device", None) or comfy.model_management.get_torch_device()
    session = _session("OneDiff Compile ControlNet", settings, record, device)
    session.seconds, session.decides = CONTROL_SECONDS, False
    model = control_net.model_of(given)
    if model is not None:
        _prepare(session, model, patcher, control_net.dtype_of(given), findings)
    else:
        session.findings = tuple(findings)
        record.update(state="idle")  # its blocks are there once it is used
    _take_over(control_net.session_of(given), record)
    return control_net.with_session(given, session)


def _session(title: str, settings: Settings, record: Record, device: torch.device) -> CallSession:
    settings = replace(settings, compile_seconds=compile_seconds())
    PROOFS.wait_for_imports(CANCEL.check)  # the check imports Dynamo, and so does a backend that starts
    session = CallSession(settings, record, host(), device, proofs=PROOFS)
    session.title = title
    return session


def _prepare(session: CallSession, model: nn.Module, patcher: Any, dtype: torch.dtype, findings: list[Finding]) -> None:
    session.findings = tuple(findings)
    with session.looking():
        options = check_options(asked_of(model, patcher, dtype, session.settings)) if patcher is not None else ()
        session.findings += tuple(finding for finding in options if finding.path in INPUTS)
        session.prepare(model, (), dtype)


def _take_over(earlier: CallSession | None, record: Record) -> None:
    if earlier is not None:
        earlier.give_way(str(record["node"]))
