"""The demo, `python3 scripts/demo.py`: from nothing to a picture, what the nodes did, and what all of it gained."""

import argparse
import copy
import itertools
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# The repository, instead of its scripts folder.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from measure.verdict import verdict
from node_ids import COMPILE, FORWARD_CHECK, PATCH_ATTENTION
from scripts import checkpoints, console
from scripts.console import CannotContinue, duration, live, say
from scripts.environment import ROOT, Environment, continue_inside, prepare
from scripts.ports import port_is_free, port_taken
from scripts.prompt import Prompt, Workflow, load_workflow, to_prompt, with_mode, with_values
from scripts.server import Server, error_of, link_file, serve
from scripts.table import merged, table
from scripts.whole_runs import WholeRuns, gain_lines, seconds_of

WORKFLOW = ROOT / "example_workflows" / "SD 1.5 - patch, check, compile.json"
NODES = {PATCH_ATTENTION, FORWARD_CHECK, COMPILE}
#: Of the workflow as the editor opens it. In such an address it takes letters, digits, "_", "." and "-" alone.
TEMPLATES, TEMPLATE = "onediff-demo", "patch-check-compile"
EDITOR_SCRIPT = ROOT / "scripts" / "demo_picture.js"
PORTS = range(8188, 8199)
# Results of a run are let go in the next that does not use them: each of the runs by turns samples anew.
FLAGS = ("--cache-classic",)
# A second round makes the figures steadier; where the first took longer than this, it is not worth the wait.
SECOND_ROUND_SECONDS = 60


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run the example workflow in the real ComfyUI and print the gain.")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="a .safetensors file; default: random weights")
    parser.add_argument("--keep", action="store_true", help="leave the editor open with the workflow, until Ctrl-C")
    parser.add_argument("--port", type=int, help="port of ComfyUI (default: the first free one from 8188)")
    parser.add_argument("--size", type=int, help="width and height (default: 512)")
    parser.add_argument("--steps", type=int, help="sampling steps (default: 20, with random weights 6)")
    parser.add_argument("--full-size", action="store_true", help="random weights in the full size of SD 1.5 (2.2 GB)")
    options = parser.parse_args()
    if options.full_size and options.checkpoint:
        parser.error("--full-size is about random weights; leave it out with --checkpoint")
    for name, least in (("size", 64), ("steps", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            parser.error(f"--{name} must be at least {least}")
    return options


def main() -> int:
    options = arguments()
    if options.checkpoint:
        options.checkpoint = checkpoints.check_checkpoint(options.checkpoint)
    ports = choose_ports(options.port)
    environment = prepare()
    code = continue_inside(environment)
    if code is not None:
        return code
    base = environment.cache / "demo"
    checkpoint = choose_checkpoint(environment, options)
    say("Starting ComfyUI …")
    started = time.monotonic()
    models = base / "models" / "checkpoints"
    models.mkdir(parents=True, exist_ok=True)
    link_file(checkpoint, models / checkpoint.name)
    templates = template_folder(base)
    with serve(environment, base, ports=ports, flags=FLAGS) as server:
        say(f"ComfyUI is up after {duration(time.monotonic() - started)}. Its models folder: {base / 'models'}")
        size = options.size or 512
        steps = options.steps or (20 if options.checkpoint else 6)
        workflow = adapted_workflow(server, checkpoint.name, size, steps)
        picture = base / "output" / f"demo_{checkpoint.stem}_{size}.png"
        entry = compare(server, workflow, picture, f"{size} × {size}, {steps} steps")
        if options.keep:
            for_the_editor(templates, workflow, entry)
            keep_open(server)
    return 0


def choose_ports(wanted: int | None) -> Sequence[int]:
    """The wanted port, looked at before minutes of installing, or those to try."""
    if wanted is None:
        return PORTS
    if not 1024 <= wanted <= 65535:
        raise CannotContinue(f"{wanted} is not a usable port; take one from 1024 to 65535.")
    if not port_is_free(wanted):
        raise port_taken([wanted])
    return [wanted]


def choose_checkpoint(environment: Environment, options: argparse.Namespace) -> Path:
    if options.checkpoint:
        return options.checkpoint
    name = "sd15" if options.full_size else "sd15_small"
    path = checkpoints.standin(environment, name)
    kind = "full-size" if options.full_size else "small"
    say(f"No --checkpoint given: a {kind} Stable Diffusion 1.5 with random weights, so the picture will be noise.")
    return path


def adapted_workflow(server: Server, checkpoint: str, size: int, steps: int) -> Workflow:
    """The example workflow with this checkpoint, size and number of steps, and an id of its own."""
    info = server.object_info()
    missing = sorted(NODES - info.keys())
    if missing:
        raise CannotContinue(
            f"ComfyUI did not load the pack ({', '.join(missing)} missing); its log is {server.log}.",
            [line for line in console.tail(server.log, 200) if "onediff" in line.lower() or "Error" in line][-8:],
        )
    changes: dict[str, dict[str, Any]] = {
        "CheckpointLoaderSimple": {"ckpt_name": checkpoint},
        "EmptyLatentImage": {"width": size, "height": size},
        "KSampler": {"steps": steps},
    }
    workflow = with_values(load_workflow(WORKFLOW), info, changes)
    for node in workflow["nodes"]:
        # The file is here: the editor need not offer its download.
        node["properties"].pop("models", None)
    return workflow


def compare(server: Server, workflow: Workflow, picture: Path, what: str) -> dict[str, Any]:
    """Runs the workflow with our nodes bypassed and with them, by turns on the same seed, and says what that gained.
    Gives the history entry of the first run with them."""
    info = server.object_info()
    without, patched = with_mode(workflow, NODES), with_mode(workflow, NODES - {PATCH_ATTENTION})
    runs = WholeRuns()
    run(server, with_values(without, info, {"KSampler": {"steps": 1}}), "Loading the model, one step")
    runs.without.append(seconds_of(run(server, without, f"{WORKFLOW.name} with our nodes bypassed")))
    first = run(server, workflow, f"{WORKFLOW.name} with our nodes, the first time")
    runs.first = seconds_of(first)
    for seed in itertools.takewhile(lambda _: is_built_beside(one_record(server, workflow)), itertools.count(1)):
        again = with_values(workflow, info, {"KSampler": {"seed": seed}})  # else ComfyUI has the picture already
        run(server, again, "With our nodes, until what is compiled in the background is used")
    compiling = (one_record(server, workflow).get("compile") or {}).get("seconds")
    images = server.images(first)
    if not images:
        raise CannotContinue(f"the workflow ended without a picture (log: {server.log}).", console.tail(server.log, 8))
    picture.write_bytes(images[0])
    say(f"Picture: {picture}")
    runs.patched.append(seconds_of(run(server, patched, "With the attention patched only")))
    runs.together.append(seconds_of(run(server, workflow, "With our nodes again")))
    if runs.round_seconds < SECOND_ROUND_SECONDS:
        for times, way in ((runs.without, without), (runs.patched, patched), (runs.together, workflow)):
            times.append(seconds_of(run(server, way, "Once more by turns")))
    record = one_record(server, workflow)
    if record.get("compile"):
        record["compile"]["seconds"] = compiling  # the runs after the first had nothing left to compile
    say()
    say("What the nodes show, from steps and attention that they timed in that run:")
    for line in table([record] if record else []) or ["The pack sent no record of this run."]:
        say("  " + line)
    say()
    rounds = len(runs.without)
    of = "once each" if rounds == 1 else f"mean of {rounds} by turns"
    say(f"What counts, whole runs: {what}, the same seed, model loaded before, {of}:")
    for line in gain_lines(runs, record, verdict):
        say("  " + line if line else "")
    say()
    return first


def is_built_beside(record: dict[str, Any]) -> bool:
    """Whether a compiler is still at work, which no run waits for."""
    return bool(((record.get("compile") or {}).get("stopped") or {}).get("beside"))


def records_of(server: Server, workflow: Workflow) -> list[dict[str, Any]]:
    return [r for r in server.status().values() if r.get("workflow") in (workflow["id"], None)]


def one_record(server: Server, workflow: Workflow) -> dict[str, Any]:
    return (merged(records_of(server, workflow)) or [{}])[0]


def run(server: Server, workflow: Workflow, what: str) -> dict[str, Any]:
    """The history entry of a run that succeeded."""
    say(f"{what} …")
    started = time.monotonic()
    from scripts.events import Events  # aiohttp is there only inside the environment

    events = Events(server.url, server.client)
    events.start()
    prompt = to_prompt(workflow, server.object_info())
    prompt_id = server.queue(prompt, workflow)
    try:
        entry = server.wait(prompt_id, tick=lambda: live(progress(events, prompt, time.monotonic() - started)))
    finally:
        events.close()
    error = error_of(entry)
    if error:
        for line in table(records_of(server, workflow)):
            say("  " + line)
        raise CannotContinue(f"the workflow failed in {error} (log: {server.log})", console.tail(server.log, 8))
    return entry


def progress(events: Any, prompt: Prompt, seconds: float) -> str:
    """Where the run is: "Load Checkpoint · 2.1 s", then "KSampler · compiling 7/38 · step 2/12 · 12 s"."""
    node = (events.latest.get("executing") or {}).get("node")
    parts = [prompt[node]["_meta"]["title"] if node in prompt else "starting"]
    busy = [r for r in list(events.records.values()) if r.get("state") in ("checking", "compiling", "measuring")]
    if busy:
        parts.append(busy[-1].get("summary") or busy[-1]["state"])
    step = events.latest.get("progress")
    if step and step.get("max") and step.get("node") == node:
        parts.append(f"step {step['value']}/{step['max']}")
    return " · ".join([*parts, duration(seconds)])


def template_folder(base: Path) -> Path:
    """A custom node without nodes: a workflow that the editor can open by address, and what shows its picture there."""
    folder = base / "custom_nodes" / TEMPLATES
    for part in ("example_workflows", "web"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "__init__.py").write_text('NODE_CLASS_MAPPINGS = {}\nWEB_DIRECTORY = "./web"\n')
    shutil.copy(EDITOR_SCRIPT, folder / "web")
    return folder


def for_the_editor(folder: Path, workflow: Workflow, entry: dict[str, Any]) -> None:
    """With the seed after the one that ran: else the first Run would take all from ComfyUI's cache."""
    workflow = copy.deepcopy(workflow)
    next(node for node in workflow["nodes"] if node["type"] == "KSampler")["widgets_values"][0] += 1
    (folder / "example_workflows" / f"{TEMPLATE}.json").write_text(json.dumps(workflow), encoding="utf-8")
    ran = {"workflow": workflow["id"], "prompt": entry["prompt"][1], "outputs": entry["outputs"]}
    (folder / "web" / "ran.json").write_text(json.dumps(ran), encoding="utf-8")


def keep_open(server: Server) -> None:
    say("The editor is open with this workflow at")
    say(f"  {server.url}/?template={TEMPLATE}&source={TEMPLATES}")
    say("Press Ctrl-C here to end it.")
    while True:
        server.check_alive()
        time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(console.run(main))
