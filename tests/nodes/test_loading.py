"""The pack as ComfyUI loads it: quickly, and without what it does not need."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

LOAD = textwrap.dedent(
    """
    import asyncio, importlib.util, sys, time
    sys.path.insert(0, sys.argv[2])
    from comfy.cli_args import args
    args.cpu = True
    import torch, comfy.model_management, comfy_api.latest, server  # what the host has loaded by then

    class Routes:
        def get(self, path):
            return lambda handler: handler

        post = get

    server.PromptServer.instance = type("Server", (), {"routes": Routes(), "send_sync": None})()
    name = "/some/folder/custom_nodes/pack_x_dot_y"  # ComfyUI's module names are paths
    before, start = set(sys.modules), time.process_time()
    spec = importlib.util.spec_from_file_location(name, sys.argv[1] + "/__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)

    async def load():
        extension = await module.comfy_entrypoint()
        await extension.on_load()
        return await extension.get_node_list()

    nodes = asyncio.run(load())
    print(time.process_time() - start)
    print(*[node.GET_SCHEMA().node_id for node in nodes])
    heavy = ("onediff", "oneflow", "nexfort", "diffusers", "torch._inductor.compile_fx", "matplotlib")
    print(*[name for name in heavy if name in sys.modules and name not in before])
    print(module.WEB_DIRECTORY, hasattr(module, "NODE_CLASS_MAPPINGS"))
    """
)


@pytest.mark.serial
@pytest.mark.usefixtures("host")
def test_it_loads_under_a_path_as_name_quickly_and_imports_no_compiler(host, tmp_path):
    """As from the second start on: Python has kept what it read of the files."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", LOAD, str(ROOT), str(host)]
    for _ in range(2):
        run = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=180,
            check=True,
            env={"PYTHONPYCACHEPREFIX": str(tmp_path), **kept},
        )
        seconds, nodes, heavy, exports = run.stdout.splitlines()
        if float(seconds) < 0.3:  # it had, from tests before this one
            break
    assert nodes.split()[:4] == ["OneDiffPatchAttention", "OneDiffForwardCheck", "OneDiffCompile", "OneDiffSpeedReport"]
    assert nodes.split()[4:6] == ["OneDiffLoadProcessor", "OneDiffIPAdapter"]
    assert nodes.split()[6:8] == ["OneDiffCompileVAE", "OneDiffCompileControlNet"]
    assert len(nodes.split()) == 8 + 31  # and the old ones
    assert heavy == ""
    assert exports == "./web False"
    assert float(seconds) < 0.3


def test_input_order_and_defaults_are_the_published_ones(host):
    run = subprocess.run(
        [sys.executable, "-c", LOAD + SCHEMAS, str(ROOT), str(host)],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    assert run.stdout.splitlines()[4:10] == [
        "model processor=auto sites=all blocks= quality=exact custom -> model",
        "model on_problem=report -> model report ok",
        "model backend=auto scope=blocks effort=fast start if_unfit=run uncompiled keep_faster=True -> model",
        "model positive negative latent steps=8 cfg=8.0 -> plot report",
        "file strength=1.0 -> processor",
        "processor clip_vision_output negative weight=1.0 start_percent=0.0 end_percent=1.0 mask -> processor",
    ]


SCHEMAS = textwrap.dedent(
    """
    for node in nodes:
        schema = node.GET_SCHEMA()
        inputs = [i.id if getattr(i, "default", None) is None else f"{i.id}={i.default}" for i in schema.inputs]
        print(*inputs, "->", *[output.display_name for output in schema.outputs])
    """
)
