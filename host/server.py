"""What the nodes need of ComfyUI's server."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import comfy.ldm.modules.attention as attention
import comfy.model_management
import comfyui_version
from comfy_api.latest import io
from comfy_execution.utils import get_executing_context
from server import PromptServer

from ..compilers import CLEARED, PROOFS, WARM, Host, backend_rows
from ..patching.ending.lingering import Held
from ..processors.choosing.kept import CHOICES
from ..processors.kernels.proofs import KERNEL_PROOFS
from ..status import HUB, Record
from ..status.hub import Run
from ..status.machine import machine
from ..status.model_file import model_nodes
from ..status.plain import is_comparable, plain, short_id
from ..status.prompts import is_link
from ..status.routes import add_routes
from .compile_cache_folder import cache_place, cache_size, own_folder, remember_folder
from .loading.files import register_ip_folder
from .offered_processors import is_users, register_folder
from .prompt_ends import CANCEL, PromptEnds, class_of
from .weights import resolve_weights

#: Ended prompts that are looked through for records of cached nodes.
MAX_RUNS = 200


def start() -> None:
    """Connects the records to the server, events to pages and the routes; and names the folder of processors."""
    register_folder()
    register_ip_folder()
    server = PromptServer.instance
    HUB.transport = server.send_sync
    KERNEL_PROOFS.on_disk = PROOFS.on_disk  # one file
    PROOFS.on_disk.folder = CHOICES.on_disk.folder = own_folder()
    WARM.place, WARM.used = cache_place, remember_folder
    HUB.running = running_workflow
    HUB.runs = ended_runs
    ends = PromptEnds(server, HUB.settle, _workflow_of, is_users, _hold)
    HUB.ended, HUB.class_of = ends.new, class_of
    HUB.watch = ends.watch
    if hasattr(server, "add_on_prompt_handler"):
        server.add_on_prompt_handler(ends.on_prompt)
    add_routes(
        server.routes,
        HUB,
        lambda: plain(backend_rows(comfy.model_management.get_torch_device())),
        {"measurements": clear_measurements, "compile cache": clear_compile_cache, "backends": clear_backends},
        cache_size,
    )


def _hold(workflow: str | None, held: Held | None) -> None:
    told = None
    if held is not None:
        told = {"file": Path(held.file).stem, "where": held.where, "seconds": held.seconds, "cancelled": held.cancelled}
    HUB.hold(workflow, told)


def clear_measurements() -> str:
    """Forgets step times. The sentence is for a person."""
    CLEARED.clear_measurements()
    CHOICES.forget()
    HUB.forget_speed()
    return "Step times are forgotten. " + _from("is timed again")


def clear_compile_cache() -> str:
    """Forgets compiled graphs. The sentence is for a person."""
    deleted = CLEARED.clear_graphs()
    on_disk = f", and the {deleted.count} files kept on disk are deleted" if deleted.count > 1 else ""
    if deleted.count == 1:
        on_disk = ", and the one file kept on disk is deleted"
    left = f" On disk {deleted.left} could not be deleted ({deleted.why}): the console names them." * bool(deleted.left)
    return f"Compiled graphs are dropped{on_disk}.{left} {_from('compiles again')}"


def clear_backends() -> str:
    """Forgets why backends did not work. The sentence is for a person."""
    PROOFS.forget_failures()
    KERNEL_PROOFS.forget_failures()
    CLEARED.forget_failed_backends()
    return "Backends that did not work are tried again when they are asked for."


def begin_start(backend: Any) -> None:
    """Lets a backend start while ComfyUI loads the model."""
    PROOFS.start_ahead(str(backend), comfy.model_management.get_torch_device())


def _from(what: str) -> str:
    running = bool(PromptServer.instance.prompt_queue.currently_running)
    return f"What runs now ends as it began; the next sampling {what}." if running else f"The next sampling {what}."


def host() -> Host:
    """ComfyUI's part in a session."""
    return Host(
        check_interrupt=CANCEL.check,
        interruption=CANCEL.error,
        version=comfyui_version.__version__,
        resolve_weights=resolve_weights,
        sampler=executing_class,
        computes_with_sdpa=computes_with_sdpa,
        opaque_attention=opaque_attention,
        prompt=executing_prompt,
    )


def computes_with_sdpa() -> bool:
    """Whether ComfyUI's attention function is PyTorch's, as with ``--use-pytorch-cross-attention``."""
    return attention.optimized_attention is attention.attention_pytorch


def opaque_attention() -> Callable | None:
    """ComfyUI's attention function, where no graph can hold it: some read free memory, some are libraries' own. None
    for those that can be traced; FlashAttention is an operator already."""
    used = attention.optimized_attention
    traced = ("attention_pytorch", "attention_basic", "attention_flash")
    return None if used in [getattr(attention, name, None) for name in traced] else used


def running_workflow() -> str | None:
    """Id of the editor's workflow whose prompt asks; None for a prompt of a script, and outside of prompts."""
    prompt = _running_prompt()
    return None if prompt is None else _workflow_of(prompt)


def executing_class() -> str | None:
    """The class of the node that asks; None outside of prompts, and for a node that another one made."""
    prompt, context = _running_prompt(), get_executing_context()
    node = None if prompt is None or context is None else prompt[2].get(context.node_id)
    return None if node is None else node.get("class_type")


def executing_prompt() -> str | None:
    """The id of the prompt that asks; None outside of prompts."""
    context = get_executing_context()
    return None if context is None else context.prompt_id


def _running_prompt() -> tuple | None:
    """The item of the queue that asks: (number, prompt id, nodes, extra data, …)."""
    context = get_executing_context()
    if context is None:
        return None
    running, _queued = PromptServer.instance.prompt_queue.get_current_queue_volatile()
    return next((prompt for prompt in running if prompt[1] == context.prompt_id), None)


def ended_runs() -> Iterator[Run]:
    """Prompts in ComfyUI's history that came from the editor, newest first."""
    history = PromptServer.instance.prompt_queue.history
    for entry in itertools.islice(reversed(list(history.values())), MAX_RUNS):
        workflow = _workflow_of(entry["prompt"])
        records = {
            short_id(str(node)): output["onediff"][0]
            for node, output in entry.get("outputs", {}).items()
            if output and output.get("onediff")
        }
        messages = (entry.get("status") or {}).get("messages") or ()
        began = next((data.get("timestamp") for name, data in messages if name == "execution_start"), None)
        if workflow is not None and records and began is not None:
            yield Run(workflow, began / 1000, records)


def _workflow_of(prompt: tuple) -> str | None:
    """The editor's workflow in an item of the queue: (number, prompt id, nodes, extra data, …)."""
    return _workflow_id((prompt[3] or {}).get("extra_pnginfo"))


def _workflow_id(extra_pnginfo: Any) -> str | None:
    """Clients send what they like: anything but an editor's workflow with an id is none."""
    workflow = extra_pnginfo.get("workflow") if isinstance(extra_pnginfo, dict) else None
    name = workflow.get("id") if isinstance(workflow, dict) else None
    return short_id(name) if isinstance(name, str) else None


def schema(**fields: Any) -> io.Schema:
    """``io.Schema`` with the fields that this ComfyUI knows: older ones lack some."""
    known = {field.name for field in dataclasses.fields(io.Schema)}
    return io.Schema(**{name: value for name, value in fields.items() if name in known})


def new_record(hidden: Any, **settings: Any) -> Record:
    """The record of the node that is executing; its workflow is the editor's, None for a prompt without one.
    ``settings``: what the node was given, by input. Pages are told those that they can compare with what a node has
    now."""
    HUB.watch()
    record = HUB.record(_workflow_id(hidden.extra_pnginfo), short_id(str(hidden.unique_id)))
    record.data["settings"] = {name: value for name, value in settings.items() if is_comparable(value)}
    prompt, context = _running_prompt(), get_executing_context()
    if prompt is not None and context is not None:
        record.data["sources"] = _sources(prompt[2], context.node_id, record.data["settings"])
        record.data["upstream"] = model_nodes(prompt[2], context.node_id, class_of)
    return record


def _sources(graph: dict[str, Any], node: str, names: Iterable[str]) -> dict[str, list[Any]]:
    """Which inputs of a node came through a link, from which node's output: ``{"cfg": ["7", 0]}``."""
    inputs = (graph.get(node) or {}).get("inputs") or {}
    return {name: [short_id(inputs[name][0]), inputs[name][1]] for name in names if is_link(inputs.get(name))}


def seen_now(record: Record, model: Any) -> dict[str, Any]:
    """Notes when and on which machine a node looked at a MODEL, for the record."""
    record.stamp()
    return {"machine": machine(model.load_device, comfyui_version.__version__)}


def ui(record: Record) -> dict[str, list[dict[str, Any]]]:
    """The node's ``ui`` output. It holds the record itself, so ``/history`` shows what was measured while sampling."""
    return {"onediff": [record.data]}


def show_now(hidden: Any, output: dict[str, Any]) -> None:
    """Shows a node's output in the page that asked, as of a node that is about to end the run."""
    server = getattr(PromptServer, "instance", None)
    if server is not None and server.client_id is not None:  # None would be every page
        shown = hidden.dynprompt.get_display_node_id(hidden.unique_id)
        message = {"node": hidden.unique_id, "display_node": shown, "output": output, "prompt_id": executing_prompt()}
        server.send_sync("executed", message, server.client_id)
