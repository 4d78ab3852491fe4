"""Lists that blocks change: each is handed its own part alone, and the whole list is afterwards as if it had had it."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
from onediff_pack.compilers.session.calls.lists import UNKNOWN, Lists


def counting(x, cache, index):
    """Two places from the number on, as Wan's blocks take them; the first is empty in the beginning."""
    for _ in range(2):
        before = cache[index[0]]
        cache[index[0]] = x
        x = x + (before or 0)
        index[0] += 1
    return x


def carrying(x, carry_in=None, carry_out=None):
    """Takes two from the front, and puts as many at the end, as Hunyuan Video's do."""
    for _ in range(2):
        if carry_out is not None:
            carry_out.append(x)
        if carry_in is not None:
            x = x + carry_in[0] + carry_in.pop(0)
    return x


def handed(block):
    """What a block is handed, and its result."""
    seen = []

    def run(*args, **kwargs):
        given = [*args, *kwargs.values()]
        seen.extend(list(one) for one in given if isinstance(one, list))
        return block(*args, **kwargs)

    return run, seen


def learned(block, *args, **kwargs):
    lists = Lists()
    lists.watched(block, (args, kwargs))
    assert lists.unfit is None
    return lists


def test_places_from_a_number_on():
    lists = learned(counting, 1, [None, None, 5, 6, None], [2])
    for at in (0, 2, 3):
        cache, index = [1, 2, 3, 4, 5], [at]
        expected_cache, expected_index = list(cache), list(index)
        expected = counting(7, expected_cache, expected_index)
        run, seen = handed(counting)
        assert lists.alone(run, ((7, cache, index), {})) == expected
        assert (cache, index) == (expected_cache, expected_index)
        assert seen == [[1, 2, 3, 4, 5][at : at + 2], [0]], "nothing of the other blocks, wherever it stands"


def test_watching_changes_the_lists_as_the_block_does():
    cache, index = [None, 1, 2], [1]
    Lists().watched(counting, ((7, cache, index), {}))
    expected_cache, expected_index = [None, 1, 2], [1]
    counting(7, expected_cache, expected_index)
    assert (cache, index) == (expected_cache, expected_index)


def test_taken_from_the_front_and_put_at_the_end():
    lists = learned(carrying, 1, [10, 20, 30], [])
    first, last = [1, 2, 3, 4, 5], [9]
    expected_first, expected_last = list(first), list(last)
    expected = carrying(7, expected_first, expected_last)
    run, seen = handed(carrying)
    assert lists.alone(run, ((7, first, last), {})) == expected
    assert (first, last) == (expected_first, expected_last)
    assert seen == [[1, 2], []]


def test_what_raises_leaves_the_lists_as_they_were():
    lists = learned(counting, 1, [None] * 4, [0])

    def fails(x, cache, index):
        counting(x, cache, index)
        raise RuntimeError

    cache, index = [1, 2, 3, 4], [1]
    try:
        lists.alone(fails, ((7, cache, index), {}))
    except RuntimeError:
        assert (cache, index) == ([1, 2, 3, 4], [1])
    else:
        raise AssertionError


OTHER_WAYS: dict[str, Callable[[Any], Any]] = {
    "length": len,
    "all": lambda items: [one for one in items],
    "last": lambda items: items[-1],
    "several": lambda items: items[0:2],
    "take the last": lambda items: items.pop(),
    "put and look": lambda items: items.append(items[0]),
    "put several": lambda items: items.extend([4]),
    "put before": lambda items: items.insert(0, 4),
    "remove": lambda items: items.remove(1),
    "delete": lambda items: operator.delitem(items, 0),
    "clear": lambda items: items.clear(),
    "reverse": lambda items: items.reverse(),
    "sort": lambda items: items.sort(key=str),
    "copy": lambda items: items.copy(),
    "find": lambda items: items.index(1),
    "count": lambda items: items.count(1),
    "contains": lambda items: 1 in items,
    "compare": lambda items: items == [1, 2, 3],
    "differ": lambda items: items != [1, 2, 3],
    "order": lambda items: items < [1, 2, 4],
    "backwards": reversed,
    "words": repr,
    "true": bool,
    "join": lambda items: operator.add(items, [4]),
    "join behind": lambda items: operator.add([4], items),
    "join in place": lambda items: operator.iadd(items, [4]),
    "repeat": lambda items: items * 2,
    "repeat in place": lambda items: operator.imul(items, 2),
}


@pytest.mark.parametrize("way", OTHER_WAYS)
def test_anything_else_that_is_done_to_a_list_is_not_compiled_and_done_all_the_same(way):
    lists, given, expected = Lists(), [1, 2, 3], [1, 2, 3]
    result = lists.watched(lambda x, items: OTHER_WAYS[way](items), ((7, given), {}))
    assert lists.unfit == UNKNOWN
    wanted = OTHER_WAYS[way](expected)
    assert given == expected
    assert way == "backwards" or result == wanted


def test_lists_that_were_not_seen_are_to_be_watched_first():
    lists = learned(carrying, 1, [10, 20, 30])
    assert lists.knows(((1, [1, 2]), {}))
    assert not lists.knows(((1, [1, 2], []), {}))


def keeping(x, kept, key="own"):
    """Adds what it was given the last time, as SeedVR2's layers do."""
    before, kept[key] = kept.get(key, 0), x
    return x + before


@pytest.mark.parametrize("kept", [{}, {"own": 1}])
def test_a_dictionary_that_a_block_changes_is_not_compiled_and_changed_all_the_same(kept):
    lists, given = Lists(), {**kept}
    assert lists.watched(keeping, ((7, given), {})) == 7 + kept.get("own", 0)
    assert given == {"own": 7}
    assert lists.unfit == UNKNOWN


def test_one_that_it_only_looks_at_is_handed_on():
    lists, options = Lists(), {"scale": 2}
    assert not lists.knows(((3,), {"options": options})), "it is to be watched first"
    lists.watched(lambda x, options: x * options["scale"], ((3,), {"options": options}))
    assert lists.unfit is None and lists.knows(((3,), {"options": {}}))
    run, _ = handed(lambda x, options: x * options["scale"])
    assert lists.alone(run, ((4,), {"options": {"scale": 5}})) == 20
