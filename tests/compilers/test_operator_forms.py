"""The operator by itself: what a graph is promised of foreign code's results, and what it is given."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy
import pytest
import torch
from onediff_pack.compilers.blocks.operators.acting import Acting, uncompiled_options, with_standins
from onediff_pack.compilers.blocks.operators.block_call import BlockCall, OtherForm
from onediff_pack.compilers.blocks.operators.call_form import CALL_FORMS, join, split_eager
from onediff_pack.compilers.blocks.operators.promises import Promises
from onediff_pack.compilers.blocks.operators.result_form import fitting, promised, seen


def form_of(*calls: tuple[Sequence[tuple[int, ...]], Any]) -> str:
    form = fitting([seen(tuple(sizes), result) for sizes, result in calls])
    assert form is not None
    return form


def test_sizes_are_told_by_those_of_the_call():
    q = (1, 2, 48, 32)
    assert form_of(([q, q, q], torch.zeros(1, 48, 64))) == "0|0.0,0.2,0.1*0.3:float32:0,1,2"
    assert form_of(([(2, 9, 8), (2, 5, 6)], (torch.zeros(2, 9, 8), torch.zeros(2, 5, 6), None))) == (
        "('tuple', (0, 1, None))|0.0,0.1,0.2:float32:0,1,2;1.0,1.1,1.2:float32:0,1,2"
    )
    assert form_of(([q], {"q": torch.zeros(q).half()})) == "('dict', (('q', 0),))|0.0,0.1,0.2,0.3:float16:0,1,2,3"


def test_sizes_that_are_equal_by_chance_are_told_apart_by_a_second_call():
    """64 tokens, and 64 channels; then four tokens more than were given."""
    by_chance, later = ([(1, 64, 64)], torch.zeros(1, 64)), ([(1, 96, 64)], torch.zeros(1, 64))
    assert form_of(by_chance) == "0|0.0,0.1:float32:0,1"
    assert form_of(by_chance, later) == "0|0.0,0.2:float32:0,1"
    assert form_of(([(1, 9, 8)], torch.zeros(1, 13, 8)), ([(1, 20, 8)], torch.zeros(1, 24, 8))) == (
        "0|0.0,0.1+4,0.2:float32:0,1,2"
    )


def test_what_has_no_form_says_so():
    calls = [seen(((1, tokens, 8),), torch.zeros(1, kept, 8)) for tokens, kept in ((9, 5), (20, 7))]
    assert fitting(calls) is None
    assert fitting([seen(((1, 2),), [object()])]) is None


def test_strides_are_promised_for_other_sizes():
    form = form_of(([(2, 3, 5, 7)], torch.zeros(2, 5, 3, 7).transpose(1, 2)))
    ((sizes, strides, dtype),) = promised(form, [torch.zeros(1, 4, 6, 8)])
    assert (sizes, strides, dtype) == (
        [1, 4, 6, 8],
        list(torch.zeros(1, 6, 4, 8).transpose(1, 2).stride()),
        torch.float32,
    )


def text_of(*args: Any, **kwargs: Any) -> str:
    text = CALL_FORMS.text(split_eager(args, kwargs, {})[0])
    assert text is not None
    return text


def test_a_call_reads_the_same_in_every_process():
    """A graph that was kept on disk has these texts in it."""
    parts = [lambda q: q, functools.partial(form_of), Block(), Block.forward, [].append, torch.nn.functional.relu]
    texts = [text_of(torch.zeros(2), part, name=part) for part in parts]
    assert not any(re.search("0x|[0-9]{6}", text) for text in texts)
    assert "test_a_call_reads_the_same_in_every_process.<locals>.<lambda>" in texts[0]


def test_equal_values_of_other_types_are_other_calls():
    """True == 1.0, and a scale of 1.0 is not a flag."""
    values = (True, 1.0, False, 0.0)
    forms = [CALL_FORMS[text_of(value)] for value in values]
    found = [join(form, [], [], {}, lambda dropped, added: {})[0][0] for form in forms]
    assert list(map(repr, found)) == list(map(repr, values))


class Block(torch.nn.Module):
    """A block that asks for a patch, and goes on without what it gave."""

    def forward(self, x: torch.Tensor, transformer_options: dict) -> torch.Tensor:
        for patch in transformer_options["patches"]["attn1_patch"]:
            patch(x + 1, transformer_options)
            patch(x + 1, transformer_options)
        return x * 2


class Compiled:
    """A block, learned from an uncompiled run, and compiled through AOTAutograd, which drops what is unused."""

    def __init__(self, block: torch.nn.Module, function: Callable):
        self.block, self.promises, self.function = block, Promises(), function
        self.run = torch.compile(type(block).forward, backend="aot_eager", fullgraph=True)

    def call(self, function: Callable | None = None, **options: Any) -> BlockCall:
        function = function or self.function
        self.acting = Acting({"attn1_patch 0": function})
        return BlockCall({"patches": {"attn1_patch": [function]}, **options}, self.acting.functions, self.promises.note)

    def uncompiled(self, x: torch.Tensor, call: BlockCall) -> torch.Tensor:
        return self.block(x, uncompiled_options(call, keeps_override=False))

    def compiled(self, x: torch.Tensor, call: BlockCall) -> torch.Tensor:
        with call.running():
            return self.run(self.block, x, with_standins(call.options, {}, self.acting, self.promises))


@pytest.fixture
def unused():
    calls: list[int] = []
    compiled = Compiled(Block(), lambda x, options: calls.append(options["number"]) or x)
    with torch.inference_mode():
        compiled.uncompiled(torch.zeros(2, 3), compiled.call(number=0))
        calls.clear()
        yield compiled, calls
    torch._dynamo.reset()


def test_a_call_whose_result_is_unused_is_neither_dropped_nor_merged(unused):
    compiled, calls = unused
    for number in (1, 2):
        compiled.compiled(torch.zeros(2, 3), compiled.call(number=number))
    assert calls == [1, 1, 2, 2]


def test_threads_do_not_mix(unused):
    compiled, _ = unused
    both, seen_by = threading.Barrier(2), {1: [], 2: []}
    compiled.compiled(torch.zeros(2, 3), compiled.call(number=0))

    def work(number: int) -> None:
        def function(x, options):
            both.wait(30)
            seen_by[number].append(options["number"])
            return x

        with torch.inference_mode():
            call = compiled.call(function, number=number)
            compiled.compiled(torch.zeros(2, 3), call)

    threads = [threading.Thread(target=work, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen_by == {1: [1, 1], 2: [2, 2]}


def test_foreign_code_may_run_another_compiled_block(unused):
    """As a replacement does that computes with a model of its own. Afterwards the outer block goes on."""
    compiled, calls = unused
    inner = Compiled(Block(), lambda x, options: calls.append(options["number"]) or x)
    inner.uncompiled(torch.zeros(2, 3), inner.call(number=0))
    inner.compiled(torch.zeros(2, 3), inner.call(number=0))
    calls.clear()

    def outer(x, options):
        calls.append(options["number"])
        inner.compiled(torch.zeros(2, 3), inner.call(number=2))
        return x

    compiled.compiled(torch.zeros(2, 3), compiled.call(outer, number=1))
    assert calls == [1, 2, 2, 1, 2, 2]


class Used(torch.nn.Module):
    def forward(self, x: torch.Tensor, transformer_options: dict) -> torch.Tensor:
        y = transformer_options["patches"]["attn1_patch"][0](x.sin(), transformer_options)
        return y + 1


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("another dtype", lambda x, o: x.double()),
        ("another shape", lambda x, o: x[:1]),
        ("something else", lambda x, o: (x,)),
        ("nothing", lambda x, o: None),
    ],
)
def test_a_result_of_another_form_never_reaches_the_graph(name, other):
    compiled = Compiled(Used(), lambda x, options: x * 2)
    x, calls = torch.ones(2, 3), []
    compiled.uncompiled(x, compiled.call())
    compiled.compiled(x, compiled.call())

    def counted(x, options):
        calls.append(x)
        return other(x, options)

    call = compiled.call(counted)
    with pytest.raises(OtherForm):
        compiled.compiled(x, call)
    if name != "nothing":
        result = (
            compiled.block.forward(x, uncompiled_options(call.again(), keeps_override=False))
            if name != "something else"
            else None
        )
        expected = other(x.sin(), {}) + 1 if result is not None else None
        assert result is expected is None or torch.equal(result, expected)
    assert len(calls) == 1
    torch._dynamo.reset()


@pytest.mark.parametrize("inference", [True, False])
def test_the_graph_is_given_memory_of_its_own(inference):
    """Inductor writes into what an operator gave it. So it may be nobody else's."""
    kept, other, array = torch.ones(2, 3), torch.ones(4, 3), numpy.ones((2, 3), numpy.float32)
    theirs = (kept, other, torch.from_numpy(array))
    gives = {
        "kept": lambda x, o: kept,
        "a part of something kept": lambda x, o: other[:2],
        "its input": lambda x, o: x,
        "a view of it": lambda x, o: x[:, :],
        "its input by way of an array": lambda x, o: torch.from_numpy(x.numpy()),
        "an array": lambda x, o: torch.from_numpy(array),
    }
    with torch.inference_mode(inference):
        for name, function in gives.items():
            compiled = Compiled(Used(), function)
            compiled.uncompiled(torch.ones(2, 3), compiled.call())
            (form,) = compiled.promises._forms.items()
            x = torch.ones(2, 3)
            (given,) = compiled.call().in_graph([x], [], *form[0], form[1])
            given.add_(1)
            assert all(torch.equal(one, torch.ones_like(one)) for one in (*theirs, x)), name
        own = torch.ones(2, 3)
        compiled = Compiled(Used(), lambda x, o: own.clone())
        compiled.uncompiled(x, compiled.call())
        pointers = []
        compiled.function = lambda x, o: [made := own.clone(), pointers.append(made.data_ptr())][0]
        (form,) = compiled.promises._forms.items()
        (given,) = compiled.call().in_graph([x], [], *form[0], form[1])
        assert given.data_ptr() == pointers[0], "what is new is not copied"


def test_what_the_graph_hands_over_is_not_written_into():
    """It may use it again, where it would not have written itself."""
    compiled, x = Compiled(Used(), lambda x, o: x * 2), torch.ones(2, 3)

    def writing(x: torch.Tensor, options: dict) -> torch.Tensor:
        return x.mul_(2)

    with torch.inference_mode():
        compiled.uncompiled(x, compiled.call())
        ((site, form),) = compiled.promises._forms.items()
        with pytest.raises(OtherForm):  # nobody knew that it writes
            compiled.call(writing).in_graph([x], [], *site, form)
        (given,) = compiled.call(writing).in_graph([x], [], *site, form)
    assert torch.equal(x, torch.ones(2, 3))
    assert torch.equal(given, torch.full((2, 3), 2.0))


def test_arguments_that_are_one_tensor_stay_one():
    """Keys and values of a prompt are; what is written into one is read from the other."""
    x = torch.ones(2, 3)

    def writing(k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        k.mul_(2)
        return v + 0

    call = BlockCall({}, {"attn2_patch 0": writing}, lambda *noted: None)
    form = form_of(([(2, 3), (2, 3)], torch.zeros(2, 3)))
    with pytest.raises(OtherForm):
        call.in_graph([x, x.view(2, 3)], [], "attn2_patch 0", text_of(x, x), form)
    assert torch.equal(call.given[0].tensors[0], torch.full((2, 3), 2.0))


class Thrice(torch.nn.Module):
    """A block in which foreign code is called three times, once for nothing."""

    def forward(self, x: torch.Tensor, transformer_options: dict) -> torch.Tensor:
        patch = transformer_options["patches"]["attn1_patch"][0]
        patch(x.cos(), transformer_options)
        y = patch(x.sin(), transformer_options)
        z = patch(y * 3, transformer_options)
        return z.relu() + y


def test_inductor_does_with_it_what_the_capture_does():
    """Memory that is used again, strides, another size, and a call for nothing."""
    kept, calls = {}, []

    def function(x, options):
        calls.append(options["number"])
        result = kept.setdefault(x.shape, torch.empty_like(x)).copy_(x * 2)
        return result.mT.contiguous().mT if options["number"] == 2 else result

    compiled = Compiled(Thrice(), function)
    compiled.run = torch.compile(Thrice.forward, backend="inductor", fullgraph=True)
    with torch.inference_mode():
        x = torch.randn(4, 32)
        torch._dynamo.maybe_mark_dynamic(x, 0)
        compiled.uncompiled(x.clone(), compiled.call(number=0))
        calls.clear()
        for number in (1, 2, 3):
            result = compiled.compiled(x, compiled.call(number=number))
            torch.testing.assert_close(result, (x.sin() * 12).relu() + x.sin() * 2)
            x = torch.randn(4 + number * 4, 32)
        assert calls == [1] * 3 + [2] * 3 + [3] * 3
    torch._dynamo.reset()


class Halved(torch.nn.Module):
    def forward(self, x: torch.Tensor, transformer_options: dict) -> torch.Tensor:
        return transformer_options["patches"]["attn1_patch"][0](x.sin(), transformer_options).cos() * 2


def test_code_for_results_of_one_form_is_not_taken_for_another():
    """Inductor keeps code by what the graph says, so the form has to be in it."""
    gives = (lambda x, o: x[:1] * 0.5, lambda x, o: (x * 0.5).mT.contiguous().mT, lambda x, o: x.double() * 0.5)
    with torch.inference_mode(), torch._inductor.utils.fresh_cache():
        for function in gives:
            compiled = Compiled(Halved(), function)
            compiled.run = torch.compile(Halved.forward, backend="inductor", fullgraph=True)
            x = torch.randn(4, 32)
            expected = compiled.uncompiled(x, compiled.call())
            result = compiled.compiled(x, compiled.call())
            torch.testing.assert_close(result, expected)
            torch._dynamo.reset()
