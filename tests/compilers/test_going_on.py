"""A sampling goes on uncompiled while libraries are built beside, and other kinds of block are traced."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from onediff_pack.compilers import CLEARED
from onediff_pack.compilers.blocks.shared_graph import SharedGraph, Unfinished
from onediff_pack.compilers.session.one_block import block_runner, gain_timing
from sessions import FakeBackend, compiled_clone, known, using

pytestmark = pytest.mark.usefixtures("host")

DOUBLE, SINGLE = "DoubleStreamBlock", "SingleStreamBlock"
RESIDUAL, TRANSFORMER = "ResBlock", "BasicTransformerBlock"


class Library:
    """One that is built until the test has it ready, or somebody waits for it."""

    def __init__(self) -> None:
        self.ready = False
        self.ended = 0
        self.began = 1

    @property
    def at_work(self) -> bool:
        return not self.ready and self.began > self.ended

    def end(self) -> None:
        self.ended += 1

    def go_on(self) -> None:
        self.began = self.ended + 1


class BuildsBeside(FakeBackend):
    """A stand-in for a compiler that works beside. ``said``: what became of each class of block, in the order. The
    first library of a class in ``broken`` cannot be loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self.libraries: list[Library] = []
        self.broken: set[str] = set()

    def compile(self, block: torch.nn.Module, graph: SharedGraph, effort: str) -> Callable:
        run, name = super().compile(block, graph, effort), type(block).__name__

        def when_built(*args: Any, **kwargs: Any) -> Any:
            if not graph.graphs:
                graph.graphs, graph.library = 1, Library()
                self.libraries.append(graph.library)
                self.said.append(f"{name} begins")
            if graph.library is not None:
                if not (graph.waits or graph.library.ready):
                    raise Unfinished
                if name in self.broken:
                    self.broken.remove(name)
                    raise ValueError("the compiler failed")
                self.said.append(f"{name} {'is there' if graph.library.ready else 'waits'}")
                graph.library = None
            return run(*args, **kwargs)

        return when_built


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[BuildsBeside]:
    backend = BuildsBeside()

    def pairs(compiled: Callable, _uncompiled: Callable, inputs: Any, *_more: Any) -> list[tuple[float, float]]:
        compiled(inputs)
        backend.said.append(f"{backend.ran[-1]} is timed")
        return [(2.0, 1.0)] * 3

    monkeypatch.setattr(gain_timing, "time_pairs", pairs)
    monkeypatch.setattr(CLEARED, "marks", CLEARED.marks)
    with using(known(backend)):
        yield backend


def sampled(
    backend: BuildsBeside, patcher: Any, steps: int, before: Callable[[int], None] = lambda step: None, **settings: Any
) -> tuple[list[torch.Tensor], Any]:
    """A sampling as ComfyUI runs one: the result of each step, and the record."""
    sample, record = sampling_on(backend, patcher, **settings)
    return sample(steps, before), record


def sampling_on(backend: BuildsBeside, patcher: Any, **settings: Any) -> tuple[Callable[..., list[torch.Tensor]], Any]:
    """What samples so many steps, and the record of all such samplings."""
    from models import step

    clone, session, record = compiled_clone(patcher, **{"keep_faster": True, **settings})

    def sample(steps: int, before: Callable[[int], None] = lambda step: None) -> list[torch.Tensor]:
        return session.sampling(partial(run, steps, before), None, None, None, torch.zeros(steps + 1))

    def run(steps: int, before: Callable[[int], None], *_args: Any) -> list[torch.Tensor]:
        results = []
        for number in range(steps):
            backend.said.append(f"step {number + 1}")
            before(number + 1)
            results.append(session.predicting(lambda: step(clone)))
        return results

    return sample, record


def test_other_kinds_are_traced_in_the_same_step_and_no_step_waits(backend):
    import models
    from models import step

    patcher = models.flux_patcher()
    sample, record = sampling_on(backend, patcher)
    results = sample(3)
    assert backend.said == ["step 1", "step 2", f"{DOUBLE} begins", f"{SINGLE} begins", "step 3"]
    assert (record["state"], record["compile"]["stopped"]) == ("idle", {"done": 0, "total": 5, "beside": True})
    assert record["summary"] == "compiling in the background · used from the next picture"
    del backend.said[:]
    for library in backend.libraries:
        library.ready = True
    results += sample(3)
    assert backend.said[:3] == ["step 1", f"{DOUBLE} is there", f"{SINGLE} is there"]
    for result in results:
        torch.testing.assert_close(result, step(patcher))
    assert (record["state"], record["compile"]["regions_compiled"]) == ("compiled", 5)
    assert record["compile"]["stopped"] is None


def test_while_it_goes_on_the_line_says_so(backend):
    import models

    lines = []
    sample, record = sampling_on(backend, models.flux_patcher())
    sample(5, lambda step: lines.append(record["summary"]))
    assert lines[3:] == ["compiling in the background"] * 2


def test_libraries_are_used_once_no_compiler_works_beside(backend):
    """What is timed is timed undisturbed."""
    import models

    def before(step: int) -> None:
        for number in (0, 1):
            if step == 4 + number:
                backend.libraries[number].ready = True

    sampled(backend, models.flux_patcher(), 6, before)
    after = ["step 3", "step 4", "step 5", f"{DOUBLE} is there", f"{SINGLE} is there", "step 6"]
    assert backend.said[4:] == after


def test_where_steps_are_not_timed_the_same_ones_run_compiled_each_time(backend):
    """So that the picture is the same after a restart, when everything is there at once."""
    import models

    sampled(backend, models.flux_patcher(), 4, keep_faster=False)
    begins = [f"{DOUBLE} begins", f"{DOUBLE} waits", f"{SINGLE} begins", f"{SINGLE} waits"]
    assert backend.said == ["step 1", "step 2", *begins, "step 3", "step 4"]


def built_in_odd_steps(backend: BuildsBeside, step: int) -> None:
    for library in backend.libraries if step % 2 else ():
        library.ready = True


def weighs_most(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of this class take nearly all of a step."""

    @contextmanager
    def weighed(block: Any) -> Iterator[None]:
        yield
        block.weight = 100.0 if block.kind == kind else 0.1

    monkeypatch.setattr(block_runner, "weighed", weighed)


def test_while_a_block_that_is_to_be_timed_is_built_nothing_else_is_traced(backend):
    """It may be most of a step, and gain nothing: then tracing the others would be for nothing."""
    import models

    _, record = sampled(backend, models.unet_patcher(), 16, partial(built_in_odd_steps, backend), plans=True)
    first, second = (said.split()[0] for said in backend.said if said.endswith("is timed"))
    assert {first, second} == {RESIDUAL, TRANSFORMER}
    begun = [said for said in backend.said if not said.startswith("step")]
    assert begun[:4] == [f"{first} begins", f"{first} is there", f"{first} is timed", f"{second} begins"]
    before_it_is_timed = backend.said[: backend.said.index(f"{second} is timed")]
    assert before_it_is_timed.count(f"{second} begins") == 1
    assert record["compile"]["kinds_compiled"] == record["compile"]["kinds"] == 9


def test_what_is_most_of_a_step_and_gains_nothing_ends_compiling_before_others_are_traced(backend, monkeypatch):
    import models

    weighs_most(TRANSFORMER, monkeypatch)
    monkeypatch.setattr(gain_timing, "time_pairs", lambda *_all: [(1.0, 1.0)] * 3)
    _, record = sampled(backend, models.unet_patcher(), 16, partial(built_in_odd_steps, backend), plans=True)
    assert [said for said in backend.said if said.endswith("begins")] == [f"{TRANSFORMER} begins"]
    assert (record["state"], record["compile"]["stopped"]) == ("uncompiled", None)


def test_one_that_is_not_run_any_more_holds_up_the_others_for_a_step(backend, monkeypatch):
    """A caching node leaves out its blocks from then on."""
    import models
    from models import step

    weighs_most(SINGLE, monkeypatch)
    clone, session, record = compiled_clone(models.flux_patcher(), keep_faster=True, plans=True)
    leaves_out = False

    def replaced(args: dict[str, Any], more: dict[str, Any]) -> Any:
        return {"img": args["img"]} if leaves_out else more["original_block"](args)

    for number in range(3):
        clone.set_model_patch_replace(replaced, "dit", "single_block", number)

    def run(*_args: Any) -> None:
        nonlocal leaves_out
        for number in range(8):
            backend.said.append(f"step {number + 1}")
            if number == 4:
                leaves_out = backend.libraries[0].ready = True
            session.predicting(lambda: step(clone))

    session.sampling(run, None, None, None, torch.zeros(9))
    assert backend.said[:3] == ["step 1", "step 2", f"{SINGLE} begins"]
    assert backend.said[3:8] == ["step 3", "step 4", "step 5", "step 6", f"{DOUBLE} begins"], record["summary"]


def test_a_kind_that_fails_does_not_hold_up_the_others_of_its_class(backend):
    import models

    def before(step: int) -> None:
        for library in backend.libraries:
            library.ready = True

    backend.broken.add(TRANSFORMER)
    _, record = sampled(backend, models.unet_patcher(), 14, before, plans=True)
    assert backend.said.count(f"{TRANSFORMER} is timed") == 1, "another kind tells of the class"
    assert record["compile"]["stopped"] is None


class Interrupt(BaseException):
    pass


def test_what_is_built_beside_ends_with_a_cancelled_sampling_and_begins_anew_in_the_next(backend):
    import models
    from models import step

    def before(step: int) -> None:
        if step == 3:
            raise Interrupt

    clone, session, record = compiled_clone(models.flux_patcher(), keep_faster=True)

    def run(*_args: Any) -> None:
        for number in range(6):
            before(number + 1)
            session.predicting(lambda: step(clone))

    with pytest.raises(Interrupt):
        session.sampling(run, None, None, None, torch.zeros(7))
    assert [library.ended for library in backend.libraries] == [1, 1]
    assert record["compile"]["stopped"]["beside"] is False
    session.sampling(lambda: step(clone))
    assert [library.began for library in backend.libraries] == [2, 2]
    assert record["compile"]["stopped"]["beside"] is True
    for library in backend.libraries:
        library.ready = True
    session.sampling(lambda: step(clone))
    assert (record["state"], backend.compiled.count(DOUBLE), len(backend.libraries)) == ("compiled", 2, 2)


def test_what_is_built_for_a_model_outlives_pictures_of_others(backend: BuildsBeside) -> None:
    """Two tabs with two models, and pictures of few steps: each model is traced once, not for every picture."""
    import models

    def picture(patcher: Any) -> None:
        sampled(backend, patcher(), 3)
        gc.collect()  # ComfyUI lets go of a model for the next one

    def begun() -> int:
        return len([said for said in backend.said if said.endswith("begins")])

    picture(models.flux_patcher)
    picture(models.unet_patcher)
    at_first = begun()
    for patcher in (models.unet_patcher, models.flux_patcher, models.unet_patcher, models.flux_patcher):
        picture(patcher)
    assert begun() == at_first
    for library in backend.libraries:
        library.ready = True
    picture(models.unet_patcher)
    picture(models.flux_patcher)
    assert begun() == at_first
    assert {f"{kind} is there" for kind in (DOUBLE, TRANSFORMER)} <= set(backend.said)
