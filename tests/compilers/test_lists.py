"""Lists that blocks change: each is handed its own part alone, and the whole list is afterwards as if it had had it."""

from __future__ import annotations

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


def test_anything_else_that_is_done_to_a_list_is_not_compiled():
    for block in (
        lambda x, items: len(items),
        lambda x, items: [one for one in items],
        lambda x, items: items[-1],
        lambda x, items: items[0:2],
        lambda x, items: items.pop(),
        lambda x, items: items.append(items[0]),
    ):
        lists = Lists()
        lists.watched(block, ((7, [1, 2, 3]), {}))
        assert lists.unfit == UNKNOWN


def test_lists_that_were_not_seen_are_to_be_watched_first():
    lists = learned(carrying, 1, [10, 20, 30])
    assert lists.knows(((1, [1, 2]), {}))
    assert not lists.knows(((1, [1, 2], []), {}))
