"""What the nodes need of ComfyUI's server."""

from __future__ import annotations

import dataclasses
from typing import Any

import comfy.model_management
import comfyui_version
from comfy_api.latest import io
from server import PromptServer

from ..compilers import Host, backend_rows
from ..status import HUB, Record
from ..status.routes import add_routes
from .processor_choice import register_folder


def start() -> None:
    """Connects the records to the server, events to pages and the routes; and names the folder of processors."""
    register_folder()
    server = PromptServer.instance
    HUB.transport = server.send_sync
    add_routes(server.routes, HUB, lambda: backend_rows(comfy.model_management.get_torch_device()))


def host() -> Host:
    """ComfyUI's part in a session."""
    return Host(
        check_interrupt=comfy.model_management.throw_exception_if_processing_interrupted,
        interrupt_error=comfy.model_management.InterruptProcessingException,
        version=comfyui_version.__version__,
    )


def schema(**fields: Any) -> io.Schema:
    """``io.Schema`` with the fields that this ComfyUI knows: older ones lack some."""
    known = {field.name for field in dataclasses.fields(io.Schema)}
    return io.Schema(**{name: value for name, value in fields.items() if name in known})


def new_record(hidden: Any) -> Record:
    """The record of the node that is executing; its workflow is the editor's, None for a prompt without one."""
    workflow = ((hidden.extra_pnginfo or {}).get("workflow") or {}).get("id")
    return HUB.record(workflow, str(hidden.unique_id))


def ui(record: Record) -> dict[str, list[dict[str, Any]]]:
    """The node's ``ui`` output. It holds the record itself, so ``/history`` shows what was measured while sampling."""
    return {"onediff": [record.data]}
