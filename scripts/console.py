"""How the commands talk: plain lines, one live line on a terminal, one clear sentence when they cannot go on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


class CannotContinue(Exception):
    """The command stops here; the text is the one sentence that the person reads.

    `details` are lines that help (the end of a log), shown above the sentence.
    """

    def __init__(self, sentence: str, details: list[str] | None = None) -> None:
        super().__init__(sentence)
        self.details = details or []


def say(text: str = "") -> None:
    _clear_live_line()
    print(text, flush=True)


_live_width = 0


def _clear_live_line() -> None:
    global _live_width
    if _live_width:
        print("\r" + " " * _live_width + "\r", end="", flush=True)
        _live_width = 0


def live(text: str) -> None:
    """Rewrites one line on a terminal; elsewhere (a file, a CI log) it prints nothing."""
    global _live_width
    if sys.stdout.isatty():
        text = text[:110]
        print("\r" + text.ljust(_live_width), end="", flush=True)
        _live_width = len(text)


def duration(seconds: float) -> str:
    """`duration(7.24)` is "7.2 s", `duration(125)` is "2 min 5 s"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


def tail(path: Path, lines: int = 15) -> list[str]:
    """The last lines of a log, without the empty ones."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [line.rstrip()[:300] for line in text.splitlines() if line.strip()][-lines:]


@contextlib.contextmanager
def running(command: list[str], **options: Any) -> Iterator[subprocess.Popen]:
    """A child process that does not outlive the block, whatever ends it."""
    process = subprocess.Popen(command, **options)
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen) -> None:
    """Asks in ever stronger words. Ctrl-C first: pytest then stops the servers that its fixtures started."""
    # A Ctrl-C on the terminal has reached the child already; a second one would cut its tidying short.
    for ask, seconds in ((lambda: None, 2), (lambda: _interrupt(process), 30), (process.terminate, 10)):
        if process.poll() is None:
            ask()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
    if process.poll() is None:
        process.kill()
        process.wait()


def _interrupt(process: subprocess.Popen) -> None:
    if os.name != "nt":
        process.send_signal(signal.SIGINT)


def run_logged(command: list[str], log: Path, what: str, env: dict[str, str] | None = None) -> int:
    """Runs a long command with its output in `log`, and shows how long it has been at it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with log.open("ab") as output, running(command, stdout=output, stderr=subprocess.STDOUT, env=env) as process:
        while True:
            try:
                return process.wait(1)
            except subprocess.TimeoutExpired:
                live(f"{what} … {duration(time.monotonic() - started)}")


def interrupt_on_termination() -> None:
    """Makes SIGTERM unwind this process like Ctrl-C, so that what it started is stopped; a handler of others stays."""
    with contextlib.suppress(ValueError):  # Only the main thread may.
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, signal.default_int_handler)


def run(main: Callable[[], int]) -> int:
    """Runs a command's main function: no traceback for what a person can mend, 130 for Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal with an old code page must not end the demo over a "·".
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    interrupt_on_termination()
    # A shell starts background jobs with this ignored, and children would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return main()
    except CannotContinue as stop:
        for line in stop.details:
            say(f"  | {line}")
        say(f"Stopped: {stop}")
        return 1
    except KeyboardInterrupt:
        say("Stopped by you; nothing is left running.")
        return 130
