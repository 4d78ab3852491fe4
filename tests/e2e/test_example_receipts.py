"""The author's receipt in each example workflow. ``ONEDIFF_EXAMPLE_RECEIPTS=1`` makes them anew, minutes for each.

Each example runs on the real ComfyUI with a stand-in of random weights for its model; the receipt names its class and
parameters, and the size of the latents.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from examples import EXAMPLES, ROOT, example, example_file, run, start
from old_workflows import make_files

from scripts.checkpoints import standin
from scripts.environment import Environment
from scripts.server import Server, link_file

RENEW = os.environ.get("ONEDIFF_EXAMPLE_RECEIPTS")
STEPS, PICTURES = 8, 5

#: Values of the files that ``example`` makes smaller: receipts are of what a person opens. SDXL's 1024² takes too long.
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "sdxl": {
        "CheckpointLoaderSimple": {"ckpt_name": "sdxl_narrow.safetensors"},
        "EmptyLatentImage": {"width": 512, "height": 512},
    },
    "flux": {"EmptySD3LatentImage": {"width": 1024, "height": 1024}},
}
SD15 = {"EmptyLatentImage": {"width": 512, "height": 512}}

# What the editor would keep of each record.
SHAPE = """
import { readFileSync } from "node:fs";
import { shapeReceipt } from "./web/receipt/receipt.js";
const records = JSON.parse(readFileSync(0, "utf8"));
const shaped = Object.entries(records).map(([name, record]) => [name, shapeReceipt(record, "on")]);
console.log(JSON.stringify(Object.fromEntries(shaped)));
"""


@pytest.fixture(scope="module")
def server(environment: Environment) -> Iterator[Server]:
    name = f"receipts{os.environ.get('PYTEST_XDIST_WORKER', '')}"
    base = environment.cache / "e2e" / name
    for folder in ("models/checkpoints", "models/attention_processors", "input"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    make_files(base)
    link_file(standin(environment, "sdxl_narrow"), base / "models" / "checkpoints" / "sdxl_narrow.safetensors")
    own = base / "models" / "attention_processors" / "my_attention.py"
    own.write_bytes((ROOT / "docs" / "my_attention.py").read_bytes())
    with start(environment, name) as running:
        yield running


@pytest.mark.skipif(not RENEW, reason="it writes the receipts of the examples anew, on a quiet machine")
@pytest.mark.parametrize("name", EXAMPLES)
def test_its_receipts_are_made_anew(server: Server, name: str) -> None:
    server.post_json("/onediff/clear", {"what": "measurements"})
    records: dict[str, Any] = {}
    for seed in range(PICTURES):
        seeds: dict[str, dict[str, Any]] = {} if name == "report" else {"KSampler": {"seed": seed, "steps": STEPS}}
        result = run(server, example(name, server, STEPS, **(SIZES.get(name, SD15) | seeds)))
        assert result.error is None
        # What came from ComfyUI's cache sends nothing, and keeps what it learned meanwhile in the server's records.
        records |= result.records
        if name == "report" or all((one["speed"] or {}).get("kept", True) for one in records.values()):
            break
    command = ["node", "--input-type=module", "--eval", SHAPE]
    receipts = json.loads(subprocess.check_output(command, cwd=ROOT, input=json.dumps(records), text=True))
    file = example_file(name)
    workflow = json.loads(file.read_text(encoding="utf-8"))
    for node in workflow["nodes"]:
        if receipts.get(node["type"]):
            node["properties"]["onediff"] = receipts[node["type"]]
    file.write_text(json.dumps(workflow, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_of_its_nodes_has_a_small_one_that_names_a_machine_and_no_path(name: str) -> None:
    workflow = json.loads(example_file(name).read_text(encoding="utf-8"))
    ours = [node for node in workflow["nodes"] if node["type"].startswith("OneDiff")]
    assert ours
    for node in ours:
        receipt = node["properties"]["onediff"]
        text = json.dumps(receipt, ensure_ascii=False)
        assert receipt["machine"]["device"] and receipt["measured_at"], node["type"]
        assert len(text) < 1500, node["type"]
        assert "\\" not in text and "/" not in text.replace("custom/my_attention", ""), node["type"]
