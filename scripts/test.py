"""The tests, `python3 scripts/test.py`: style, types, imports, the canvas extension, and everything on the real host.

`--quick`, under a minute: what needs neither ComfyUI nor a compiler. `--coverage`: the same, and which lines none ran.
`--all`: OneFlow too, in an environment of its own (10 GB, Python 3.10); `--oneflow`: that alone. Other arguments go to
pytest, after the environment is made.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The repository, instead of its scripts folder.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from scripts import browser, console
from scripts.console import CannotContinue, duration, say
from scripts.environment import ROOT, Environment, prepare
from scripts.oneflow_environment import prepare_oneflow
from scripts.server import link_folder
from scripts.typescript import prepare_tsc

OLDEST_NODE = 20
QUICK, COVERAGE, ALL, ONEFLOW = "--quick", "--coverage", "--all", "--oneflow"
#: The tests of a file build on each other.
BY_FILE = ("--dist", "loadfile", "--no-loadscope-reorder", "-m", "not serial")
QUICK_ONES = ("-q", "-n", "2", *BY_FILE, "tests/checks", "tests/benchmarks", "tests/processors", "tests/status")
#: Where pytest notes them, its exit code when there are some, and how many files of them are run again.
LAST_FAILED, TESTS_FAILED, FEW_FILES = ROOT / ".cache" / "pytest" / "v" / "cache" / "lastfailed", 1, 8
ONEFLOW_TESTS = ("tests/compilers/test_oneflow.py", "tests/e2e/test_oneflow.py")


def main() -> int:
    environment = prepare()
    kind, arguments = (
        (sys.argv[1], sys.argv[2:]) if sys.argv[1:2] in ([QUICK], [COVERAGE], [ALL], [ONEFLOW]) else ("", sys.argv[1:])
    )
    variables = variables_for(environment, browser_wanted=kind not in (QUICK, COVERAGE, ONEFLOW))
    if kind == ALL:
        variables["ONEDIFF_TEST_ALL"] = "1"
    if kind == ONEFLOW:
        return oneflow_tests(environment, variables, arguments)
    pytest = [str(environment.python), "-m", "pytest"]
    results = style(environment, variables)
    if kind in (QUICK, COVERAGE):
        without_host = {**variables, "ONEDIFF_HOST": "none"}
        # Not always: on Python 3.11 these tests take more than twice as long with it.
        covered = ("--cov",) if kind == COVERAGE else ()
        command = [*pytest, *QUICK_ONES, *covered, *arguments]
        results["pytest"] = step("Tests without ComfyUI (pytest)", command, {"OMP_NUM_THREADS": "1", **without_host})
    elif arguments:
        results["pytest"] = step("Tests (pytest)", [*pytest, *arguments], variables)
    else:
        say_compiler()
        # Threads of several processes on the same cores spin while they wait for each other.
        beside = {"OMP_NUM_THREADS": "1", **variables}
        chosen = ("-m", "not serial")
        results["pytest"] = twice(
            "Tests (pytest)", [*pytest, "-n", workers(), *BY_FILE], beside, [*pytest, *chosen], variables
        )
        alone = [*pytest, "-m", "serial"]
        measure = [*alone, *files_that_measure()]
        results["serial"] = twice("Tests that measure (pytest)", measure, variables, alone, variables)
    if kind == ALL:
        results["OneFlow"] = oneflow_tests(environment, variables, [])
    failed = [name for name, code in results.items() if code]
    say(f"Failed: {', '.join(failed)}." if failed else "All passed, apart from what is named as skipped above.")
    return 1 if failed else 0


@dataclass(frozen=True)
class Check:
    """What looks at the code: a command, and its variables if not this process's."""

    what: str
    command: list[str]
    variables: dict[str, str] | None = None


def style(environment: Environment, variables: dict[str, str]) -> dict[str, int]:
    """What reads the code, and the tests of the canvas extension: two at a time, the longest first."""
    python, under_its_name = str(environment.python), imports_seen(environment, variables)
    mypy_of_tests = [python, "-m", "mypy", "--config-file", "tests/mypy.ini"]
    checks = {
        "mypy of tests": Check("Types of tests (mypy)", mypy_of_tests, under_its_name),
        "mypy": Check("Types (mypy)", [python, "-m", "mypy"], variables),
        "imports": Check("Imports (import-linter)", lint_imports(environment), under_its_name),
        "tsc": web_types(environment),
        "web": web_tests(),
        "ruff": Check("Style (ruff)", [python, "-m", "ruff", "check", "."]),
        "format": Check("Format (ruff)", [python, "-m", "ruff", "format", "--check", "."]),
    }
    return side_by_side({name: check for name, check in checks.items() if check is not None})


def side_by_side(checks: dict[str, Check]) -> dict[str, int]:
    """Their exit codes, by name. What each prints is shown when it has ended."""
    waiting, at_work, codes = list(checks.items()), [], {}
    with contextlib.ExitStack() as stack:
        while waiting or at_work:
            while waiting and len(at_work) < 2:
                name, check = waiting.pop(0)
                printed = stack.enter_context(tempfile.TemporaryFile())
                output: dict[str, Any] = {"stdout": printed, "stderr": subprocess.STDOUT}
                process = console.running(check.command, cwd=ROOT, env=check.variables, **output)
                at_work.append((name, check, stack.enter_context(process), printed, time.monotonic()))
            time.sleep(0.02)
            for one in [one for one in at_work if one[2].poll() is not None]:
                at_work.remove(one)
                name, check, ended, printed, started = one
                codes[name] = ended.returncode
                printed.seek(0)
                say(f"== {check.what}\n{printed.read().decode(errors='replace').rstrip()}")
                said_of(check.what, ended.returncode, started)
    return codes


def lint_imports(environment: Environment) -> list[str]:
    command = str(environment.python.with_name("lint-imports"))
    return [command, "--no-logo", "--cache-dir", str(environment.cache / "import_linter")]


def imports_seen(environment: Environment, variables: dict[str, str]) -> dict[str, str]:
    """import-linter and mypy read a package by its name: a link gives the repository the one that the tests give it."""
    folder = environment.cache / "imports"
    folder.mkdir(parents=True, exist_ok=True)
    link_folder(ROOT, folder / "onediff_pack")
    return {**variables, "PYTHONPATH": str(folder), "MYPYPATH": str(folder)}


def variables_for(environment: Environment, browser_wanted: bool) -> dict[str, str]:
    """What the tests are told: where things are, and which browser to use. Python keeps what it reads of sources, also
    where the machine tells it not to: each of some hundred processes would take 10 s to read torch and ComfyUI anew."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {
        **kept,
        "PYTHONPYCACHEPREFIX": str(environment.cache / "bytecode"),
        "ONEDIFF_CACHE": str(environment.cache),
        "ONEDIFF_HOST": str(environment.host),
        **(browser.variables(environment) if browser_wanted else {}),
    }


def workers() -> str:
    """Three or four files at a time, also on two cores: most of them wait for servers and pages (tests/turns.py). Where
    little memory is free, ComfyUI forgets the results that tests ask for: a fourth has a server and a browser too."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError):  # Windows, macOS
        return "3"
    return "4" if memory > 20e9 else "3"


def files_that_measure() -> list[str]:
    """Those with tests that are marked `serial`: to find these, pytest would import all."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(file.relative_to(ROOT)) for file in files if "pytest.mark.serial" in file.read_text(encoding="utf-8")]


def step(what: str, command: list[str], env: dict[str, str] | None = None) -> int:
    say(f"== {what}")
    started = time.monotonic()
    with console.running(command, cwd=ROOT, env=env) as process:
        code = process.wait()
    said_of(what, code, started)
    return code


def said_of(what: str, code: int, started: float) -> None:
    say(f"== {what}: {'failed' if code else 'passed'} after {duration(time.monotonic() - started)}")


def twice(what: str, command: list[str], variables: dict[str, str], again: list[str], alone: dict[str, str]) -> int:
    """On a busy machine, a server or a page may answer too late for a test that waits for it, and a figure be out of
    its bounds. The files of the few that failed run once more, alone, and what fails there has failed; both runs stand
    in what is printed."""
    LAST_FAILED.unlink(missing_ok=True)
    code = step(what, command, variables)
    if code != TESTS_FAILED or not LAST_FAILED.is_file():
        return code
    files = sorted({name.partition("::")[0] for name in json.loads(LAST_FAILED.read_text(encoding="utf-8"))})
    if not 0 < len(files) <= FEW_FILES:
        return code
    return step(f"{what}: the files of those that failed, once more", [*again, *files], alone)


def oneflow_tests(environment: Environment, variables: dict[str, str], arguments: list[str]) -> int:
    """In an environment of their own; in the other one they are skipped."""
    try:
        other = prepare_oneflow(environment)
    except CannotContinue as stop:  # what the other tests found is still to be said
        say("\n".join([*(f"  | {line}" for line in stop.details), f"Tests of OneFlow failed: {stop}"]))
        return 1
    if isinstance(other, str):
        say(f"Tests of OneFlow skipped: {other}")
        return 0
    command = [str(other.python), "-m", "pytest", "-p", "no:cacheprovider", *ONEFLOW_TESTS, *arguments]
    # On a CPU OneFlow takes all threads for itself, and torch's would wait for them.
    return step("Tests of OneFlow (pytest, Python 3.10)", command, {**variables, "OMP_NUM_THREADS": "1"})


def web_types(environment: Environment) -> Check | None:
    tsc = why_no_node() or prepare_tsc(environment)
    if isinstance(tsc, str):
        say(f"Types of the canvas extension (tsc) skipped: {tsc}")
        return None
    return Check("Types of the canvas extension (tsc)", ["node", str(tsc), "--project", str(ROOT)])


def web_tests() -> Check | None:
    folder = ROOT / "tests" / "web"
    files = sorted(str(file.relative_to(ROOT)) for file in folder.rglob("*.test.*js"))
    reason = "there are none in tests/web" if not files else why_no_node()
    if reason:
        say(f"Tests of the canvas extension (node) skipped: {reason}")
        return None
    return Check("Tests of the canvas extension (node)", ["node", "--test", "--test-reporter=spec", *files])


def why_no_node() -> str | None:
    node = shutil.which("node")
    if node is None:
        return f"Node.js is not installed; install version {OLDEST_NODE} or newer to run them."
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    major = version.lstrip("v").split(".")[0]
    if not major.isdigit() or int(major) < OLDEST_NODE:
        return f"Node.js is {version or 'not usable'}; install version {OLDEST_NODE} or newer to run them."
    return None


def say_compiler() -> None:
    """Tests decide for themselves what they can do without a compiler; the person should know beforehand."""
    if not any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "c++", "clang++", "cl")):
        say("No C++ compiler was found; on a CPU, compiling needs one (Debian and Ubuntu: apt install g++).")


if __name__ == "__main__":
    sys.exit(console.run(main))
