"""Starts, asks and stops the real ComfyUI. Used by the demo and by the end-to-end tests."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .console import CannotContinue, interrupt_on_termination, tail
from .environment import ROOT, Environment, python_says
from .ports import reserved_port

PACK = "comfyui-onediff"
_SEES_ACCELERATOR = (
    "import torch; print(torch.cuda.is_available() or torch.backends.mps.is_available()"
    " or (hasattr(torch, 'xpu') and torch.xpu.is_available()))"
)


class ServerDied(CannotContinue):
    """ComfyUI ended by itself; `details` holds the end of its log."""


class PromptRefused(CannotContinue):
    """ComfyUI answered 400; `answer` is what it said."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        reasons = [answer.get("error", {}).get("message", "")]
        for node in answer.get("node_errors", {}).values():
            reasons += [f"{node.get('class_type')}: {e.get('message')} ({e.get('details')})" for e in node["errors"]]
        super().__init__("ComfyUI refused the workflow: " + "; ".join(r for r in reasons if r))


@dataclass
class Server:
    port: int
    base: Path
    log: Path
    process: subprocess.Popen
    client: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, timeout: float = 30) -> bytes:
        with _open(self.url + path, timeout=timeout) as answer:
            return answer.read()

    def get_json(self, path: str, timeout: float = 30) -> Any:
        return json.loads(self.get(path, timeout))

    def post_json(self, path: str, body: Any, timeout: float = 60) -> Any:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with _open(request, timeout=timeout) as answer:
            data = answer.read()
        return json.loads(data) if data else None

    def object_info(self) -> dict[str, Any]:
        return self.get_json("/object_info", timeout=120)

    def status(self) -> dict[str, Any]:
        """The pack's records by key; empty when the pack is not loaded."""
        try:
            return self.get_json("/onediff/status")["records"]
        except urllib.error.HTTPError:
            return {}

    def queue(self, prompt: dict[str, Any], workflow: dict[str, Any] | None = None) -> str:
        """Queues an API prompt and returns its id. `workflow` goes along as the editor would send it."""
        extra = {"extra_pnginfo": {"workflow": workflow}} if workflow is not None else {}
        body = {"prompt": prompt, "client_id": self.client, "extra_data": extra}
        try:
            return self.post_json("/prompt", body)["prompt_id"]
        except urllib.error.HTTPError as error:
            if error.code != 400:
                raise
            raise PromptRefused(json.loads(error.read())) from error

    def wait(self, prompt_id: str, timeout: float = 1800, tick: Callable[[], None] | None = None) -> dict[str, Any]:
        """The history entry of a finished run, failed or not (see `error_of`); `tick` is called while waiting."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                entry = self.get_json(f"/history/{prompt_id}").get(prompt_id)
            except (OSError, ValueError) as error:
                self.check_alive(error)
                entry = None
            if entry and entry.get("status"):
                return entry
            if tick:
                tick()
            time.sleep(0.25)
        raise CannotContinue(f"the workflow did not finish within {timeout:.0f} s.", tail(self.log, 8))

    def run(self, prompt: dict[str, Any], workflow: dict | None = None, timeout: float = 1800) -> dict[str, Any]:
        return self.wait(self.queue(prompt, workflow), timeout)

    def images(self, entry: dict[str, Any]) -> list[bytes]:
        """The pictures of a history entry, as the files that were saved."""
        found = [i for output in entry["outputs"].values() for i in output.get("images", ())]
        keys = ("filename", "subfolder", "type")
        return [self.get("/view?" + urllib.parse.urlencode({k: i[k] for k in keys})) for i in found]

    def check_alive(self, cause: Exception | None = None) -> None:
        if self.process.poll() is not None:
            raise ServerDied(
                f"ComfyUI stopped by itself (exit code {self.process.returncode}); the end of its log is above, the "
                f"whole of it in {self.log}.",
                end_of(self.log),
            ) from cause


def end_of(log: Path) -> list[str]:
    """The last lines, or what Python said of a crash: ComfyUI has it say where it was."""
    lines = tail(log, 400)
    crash = [number for number, line in enumerate(lines) if line.startswith("Fatal Python error")]
    return lines[crash[-1] :] if crash else lines[-15:]


def error_of(entry: dict[str, Any]) -> str | None:
    """Why a run failed, in the node's own words; None for a run that succeeded."""
    status = entry["status"]
    if status.get("status_str") == "success":
        return None
    for kind, data in status.get("messages", ()):
        if kind == "execution_error":
            return f"{data.get('node_type')}: {str(data.get('exception_message', '')).strip()}"
        if kind == "execution_interrupted":
            return "the run was interrupted"
    return "the run failed; the server's log says more"


@contextlib.contextmanager
def serve(
    environment: Environment,
    base: Path,
    *,
    ports: Sequence[int] = (),
    flags: Sequence[str] = (),
    variables: dict[str, str] | None = None,
    pack: bool | None = True,
    start_timeout: float = 300,
) -> Iterator[Server]:
    """A running ComfyUI with `base` as its folder, gone when the block ends.

    It takes the first free one of `ports`, or any free port; `flags` and `variables` go to ComfyUI as they are, and
    `pack=False` leaves this repository out of its custom nodes; `pack=None` leaves them as they are.
    """
    prepare_base(base, pack)
    interrupt_on_termination()
    with reserved_port(environment.cache / "ports", ports) as port:
        command = host_command(environment, base, port, flags)
        # A log of its own and no database on disk: two servers may share a folder.
        log = base / f"server-{port}.log"
        options: dict[str, Any] = {"start_new_session": True} if os.name != "nt" else {}
        env = {**os.environ, "PYTHONUNBUFFERED": "1", **(variables or {})}
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=base, env=env, **options)
        server = Server(port, base, log, process)
        try:
            _wait_until_up(server, start_timeout)
            yield server
        finally:
            _stop(process)


def host_command(environment: Environment, base: Path, port: int, flags: Sequence[str]) -> list[str]:
    return [
        *(str(environment.python), str(environment.host / "main.py"), "--port", str(port)),
        *("--base-directory", str(base), "--database-url", "sqlite:///:memory:"),
        # No API nodes: they are not needed here, and without them the editor asks nothing of the internet.
        *("--disable-auto-launch", "--disable-api-nodes"),
        *([] if sees_accelerator(environment.python) else ["--cpu"]),
        *flags,
    ]


def prepare_base(base: Path, pack: bool | None = True) -> None:
    """ComfyUI's folders, with this repository linked in as a custom node, or not; None: as it is there."""
    for name in ("custom_nodes", "models/checkpoints", "models/diffusion_models", "models/vae", "input", "output"):
        (base / name).mkdir(parents=True, exist_ok=True)
    settings = base / "user" / "default" / "comfy.settings.json"
    if not settings.exists():
        # The editor's first-visit dialog would cover the canvas.
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text('{"Comfy.TutorialCompleted": true}\n')
    link = base / "custom_nodes" / PACK
    if pack is None:
        return
    if pack:
        link_folder(ROOT, link)
    elif link.is_symlink():
        link.unlink()
    elif link.exists():
        os.rmdir(link)  # A junction: this takes the link away, not what it leads to.


def link_folder(target: Path, link: Path) -> None:
    if link.exists() and link.resolve() == target.resolve():
        return
    if link.is_symlink():
        link.unlink()
    if os.name == "nt":
        import _winapi

        # A symbolic link needs special rights on Windows, a junction does not.
        _winapi.CreateJunction(str(target), str(link))  # type: ignore[attr-defined]
    else:
        link.symlink_to(target, target_is_directory=True)


def link_file(target: Path, link: Path) -> None:
    """Makes a model file appear in a models folder, copying only where links are impossible."""
    if link.is_symlink() or link.exists():
        if link.resolve() == target.resolve():
            return
        link.unlink()
    for make in (os.symlink, os.link, shutil.copyfile):
        with contextlib.suppress(OSError):
            make(target.resolve(), link)
            return
    raise CannotContinue(f"{target} could not be linked or copied into {link.parent}; check the disk and its rights.")


@functools.cache
def sees_accelerator(python: Path) -> bool:
    return python_says(python, _SEES_ACCELERATOR) == "True"


def _open(request: Any, timeout: float) -> Any:
    # A proxy from the environment must not come between this machine and itself.
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=timeout)


def _wait_until_up(server: Server, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        server.check_alive()
        with contextlib.suppress(OSError, ValueError):
            server.get_json("/system_stats", timeout=5)
            return
        time.sleep(0.2)
    raise CannotContinue(
        f"ComfyUI did not answer within {timeout:.0f} s; its log is {server.log}.", tail(server.log, 10)
    )


def _stop(process: subprocess.Popen) -> None:
    for sign in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        if process.poll() is not None:
            return
        with contextlib.suppress(OSError):
            # The whole group: ComfyUI's compile workers are processes of their own.
            if os.name == "nt":
                process.terminate()
            else:
                os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
