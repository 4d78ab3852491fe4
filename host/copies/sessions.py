"""The sessions of copies: what compiles a VAE or a ControlNet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ...checks import Finding
from ...checks.options import check_options
from ...compilers import PROOFS, CallSession, Settings
from ...status import Record
from ..compile_facts import asked_of
from ..prompt_ends import CANCEL
from ..server import host
from ..user_settings import compile_seconds
from .vae import session_of, with_session


def compiled_vae(vae: Any, settings: Settings, record: Record, findings: list[Finding]) -> Any:
    """A copy of a VAE whose blocks are compiled while it encodes or decodes; ``record`` says what became of it. The VAE
    itself stays as it is."""
    session = _session("OneDiff Compile VAE", vae.patcher, vae.vae_dtype, settings, record, findings)
    if vae.first_stage_model is not None:  # else ComfyUI says at the first use what is wrong with it
        session.prepare(vae.first_stage_model, (), vae.vae_dtype)
    earlier = session_of(vae)
    if earlier is not None:
        earlier.give_way(str(record["node"]))
    return with_session(vae, session)


def _session(
    title: str, patcher: Any, dtype: torch.dtype, settings: Settings, record: Record, findings: list[Finding]
) -> CallSession:
    settings = replace(settings, compile_seconds=compile_seconds())
    module = vae.first_stage_model
    found = [*findings, *check_options(asked_of(module, patcher, dtype, settings))]
    PROOFS.wait_for_imports(CANCEL.check)  # the check imports Dynamo, and so does a backend that starts
    session = CallSession(settings, record, host(), patcher.load_device, tuple(found), proofs=PROOFS)
    session.title = title
    return session
