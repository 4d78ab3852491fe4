"""Results that are made once: for good, or while somebody uses them."""

from __future__ import annotations

import gc
import weakref

from onediff_pack.memo import cached, shared


class Thing:
    held: tuple = ()


def test_cached_results_are_made_once_for_each_arguments():
    made = []

    @cached
    def make(name):
        made.append(name)
        return [name]

    assert make("a") is make("a")
    assert make("b") == ["b"]
    assert made == ["a", "b"]


def test_a_shared_result_goes_with_its_last_user():
    one, other, made = Thing(), Thing(), []

    @shared
    def make(first, second):
        """What it makes."""
        result = Thing()
        result.held = (first, second)
        made.append(weakref.ref(result))
        return result

    assert make.__name__ == "make"
    held = make(one, other)
    assert make(one, other) is held
    assert make(other, one) is not held
    weak = weakref.ref(one)
    del held, one
    gc.collect()
    assert weak() is None, "neither is kept"
    assert make(other, other).held == (other, other)
    assert len(made) == 3
