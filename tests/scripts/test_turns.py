"""Which worker takes which file of tests: nothing is left out, and what waits and what computes are told apart."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from turns import Turns

FILES = {
    "tests/checks/test_gallery.py": 3,
    "tests/e2e/test_help.py": 3,
    "tests/e2e/test_panel.py": 3,
    "tests/e2e/test_vae.py": 2,
    "tests/e2e/test_workflows.py": 2,
    "tests/status/test_plot.py": 3,
}
TESTS = [f"{file}::test_{number}" for file, count in FILES.items() for number in range(count)]


class Worker:
    def __init__(self, name: str) -> None:
        self.gateway = SimpleNamespace(id=name)
        self.shutting_down = False
        self.sent: list[str] = []

    def send_runtest_some(self, numbers: list[int]) -> None:
        self.sent += [TESTS[number] for number in numbers]

    def shutdown(self) -> None:
        self.shutting_down = True


def taken(worker: Worker) -> list[str]:
    """The files of a worker's tests, each once, in its order."""
    return list(dict.fromkeys(test.partition("::")[0].rpartition("/")[2] for test in worker.sent))


@pytest.fixture
def turns(pytestconfig: Any) -> Turns:
    config: Any = SimpleNamespace(getvalue=lambda name: ["popen"] * 4, option=SimpleNamespace(loadscopereorder=False))
    config.option.tx = ["popen"] * 4
    return Turns(config)


def test_every_test_is_run_once_and_one_of_four_workers_begins_with_what_computes(turns: Turns) -> None:
    workers = [Worker(f"gw{number}") for number in range(4)]
    for worker in workers:
        turns.add_node(worker)
        turns.add_node_collection(worker, TESTS)
    turns.schedule()
    done = [0] * len(workers)
    while any(count < len(worker.sent) for count, worker in zip(done, workers, strict=True)):
        for number, worker in enumerate(workers):
            if done[number] < len(worker.sent):
                turns.mark_test_complete(worker, TESTS.index(worker.sent[done[number]]))
                done[number] += 1
    assert sorted(test for worker in workers for test in worker.sent) == sorted(TESTS)
    assert taken(workers[0])[:2] == ["test_vae.py", "test_workflows.py"], "on one server, one after the other"
    assert (taken(workers[1])[0], taken(workers[2])[0]) == ("test_help.py", "test_panel.py")
    assert taken(workers[3])[0] == "test_gallery.py", "the longest that computes"
    assert turns.tests_finished and not turns.has_pending
