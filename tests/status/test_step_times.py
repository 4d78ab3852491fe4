"""Which way of running a model is faster: decided from noisy times whose true ratio is known."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Iterator

import pytest
from onediff_pack.status.pairs import LEAD, MOST_PAIRS, compiled_first, faster, spread, typical
from onediff_pack.status.step_times import LAST_PAIRS, PATIENCE, StepTimes

Noise = Callable[[random.Random], Iterator[float]]


def steady(rng: random.Random, sd: float = 0.03) -> Iterator[float]:
    while True:
        yield math.exp(rng.gauss(0, sd))


def spikes(rng: random.Random, often: float = 0.1) -> Iterator[float]:
    """Now and then something else takes the machine for one step."""
    for factor in steady(rng, 0.05):
        yield factor * (rng.uniform(1.5, 4) if rng.random() < often else 1)


def two_speeds(rng: random.Random, steps: float = 10) -> Iterator[float]:
    """A machine that is 2.3 times slower for about so many steps, then fast again."""
    slow = rng.random() < 0.5
    for factor in steady(rng, 0.05):
        slow ^= rng.random() < 1 / steps
        yield factor * (2.3 if slow else 1)


def drifting(rng: random.Random, a_step: float = 0.05) -> Iterator[float]:
    """A machine that gets slower with every step, or faster."""
    direction = rng.choice((-1, 1))
    for number, factor in enumerate(steady(rng)):
        yield factor * math.exp(direction * a_step * number)


NOISES: dict[str, Noise] = {
    "quiet": steady,
    "10 % noise": lambda rng: steady(rng, 0.1),
    "spikes": spikes,
    "many spikes": lambda rng: spikes(rng, 0.25),
    "two speeds": two_speeds,
    "two speeds, changing fast": lambda rng: two_speeds(rng, 3),
    "drift": drifting,
}


def drive(times: StepTimes, noise: Iterator[float], ratio: float, steps: int, shape: str = "shape") -> str:
    """Lets the schedule choose ``steps`` steps; returns which ran uncompiled (u) and compiled (c)."""
    chosen = ""
    for _ in range(steps):
        uncompiled = times.warm_up_next(shape) or times.uncompiled_next(shape)
        times.add(shape, 100 * next(noise) * (ratio if uncompiled else 1), compiled=not uncompiled)
        chosen += "u" if uncompiled else "c"
    return chosen


def outcomes(noise: str, ratio: float, trials: int = 300) -> tuple[float, float, list[float]]:
    """Of many first pictures of 40 steps: parts that decided for each way, and the ratios they show."""
    kept, shown = [], []
    for seed in range(trials):
        times = StepTimes()
        drive(times, NOISES[noise](random.Random(seed)), ratio, steps=2 + 2 * MOST_PAIRS)
        kept.append(times.kept("shape"))
        uncompiled, compiled = times.typical("shape")
        shown.append(uncompiled / compiled)
    return kept.count("compiled") / trials, kept.count("uncompiled") / trials, shown


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("ratio", [1.2, 1.5, 2.36])
def test_a_real_gain_is_kept_and_shown(noise, ratio):
    compiled, uncompiled, shown = outcomes(noise, ratio)
    assert uncompiled <= 0.01
    assert compiled >= 0.95
    assert statistics.median(shown) == pytest.approx(ratio, rel=0.03)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("ratio", [0.8, 0.25])
def test_compiled_steps_that_are_slower_are_not_kept(noise, ratio):
    compiled, uncompiled, shown = outcomes(noise, ratio)
    assert compiled <= 0.01
    assert uncompiled >= 0.95
    assert statistics.median(shown) == pytest.approx(ratio, rel=0.03)


@pytest.mark.parametrize("noise", NOISES)
def test_a_small_loss_is_seldom_kept_on_any_machine(noise):
    assert outcomes(noise, 0.95)[0] <= 0.10


def test_the_same_times_give_the_same_decision():
    assert outcomes("many spikes", 1.1) == outcomes("many spikes", 1.1)


def test_steps_take_turns_until_it_is_clear_then_compiled_ones_go_on():
    times = StepTimes()
    assert drive(times, steady(random.Random(0)), 1.5, steps=14) == "ucuuccuucccccc"
    assert times.pairs("shape") == LEAD
    assert not times.open("shape")
    assert [compiled_first(number) for number in range(4)] == [True, False, True, False]


def test_one_picture_of_four_steps_after_the_other_decides_from_all_of_them():
    times, noise = StepTimes(), steady(random.Random(0))
    chosen = []
    for _picture in range(4):
        chosen.append(drive(times, noise, 1.5, steps=4))
        times.begin_sampling()
    assert chosen == ["ucuu", "ccuu", "cccc", "cccc"]
    assert times.kept("shape") == "compiled"


def test_a_warm_up_counts_only_until_there_is_a_pair():
    times = StepTimes()
    times.add("shape", 900, compiled=False)
    assert times.typical("shape") == (900, None)
    times.add("shape", 40, compiled=True)
    assert times.typical("shape") == (900, 40)
    times.add("shape", 50, compiled=False)
    assert times.typical("shape") == pytest.approx((50, 40))


def test_one_more_pair_a_sampling_while_it_is_not_clear():
    times = StepTimes()
    equal = iter([1.0] * 1000)
    drive(times, equal, 1.0, steps=2 + 2 * MOST_PAIRS)
    assert (times.kept("shape"), times.open("shape")) == (None, False)
    for _sampling in range(100):
        if times.begin_sampling():
            assert times.open("shape")
            drive(times, equal, 1.0, steps=2)
        assert not times.open("shape")
    assert times.pairs("shape") == LAST_PAIRS


@pytest.mark.parametrize(("ratio", "kept"), [(1.5, "compiled"), (0.7, "uncompiled")])
def test_another_size_starts_from_what_is_known(ratio, kept):
    times, noise = StepTimes(), steady(random.Random(0))
    drive(times, noise, ratio, steps=12)
    assert drive(times, noise, ratio, steps=4, shape="larger") == "cuuc"
    assert times.pairs("larger") == LEAD // 2
    assert (times.kept("larger"), times.open("larger")) == (kept, False)


def test_another_size_may_show_the_opposite():
    times, noise = StepTimes(), steady(random.Random(0))
    drive(times, noise, 1.5, steps=12)
    drive(times, noise, 0.7, steps=12, shape="larger")
    assert (times.kept("shape"), times.kept("larger")) == ("compiled", "uncompiled")


def test_compiled_steps_that_become_slow_are_compared_again_and_rarely():
    times = StepTimes()
    drive(times, steady(random.Random(0)), 1.5, steps=10)
    assert drive(times, iter([1.4] * 200), 1.5, steps=200).count("u") == 0  # slower, but not than uncompiled ones were
    assert drive(times, iter([4.0] * 100), 0.8, steps=100).count("u") == LEAD
    assert times.kept("shape") == "uncompiled"

    times = StepTimes()
    drive(times, steady(random.Random(0)), 1.5, steps=10)
    busy = drive(times, iter([4.0] * 4000), 1.5, steps=4000)  # the machine is slow, and compiled is still faster
    assert times.kept("shape") == "compiled"
    assert 0 < busy.count("u") <= LEAD * math.log2(4000 / PATIENCE)


def test_typical_times_agree_with_the_ratio_where_medians_of_each_way_do_not():
    pairs = [(90.0, 60.0), (30.0, 20.0), (31.0, 60.0), (90.0, 60.0), (30.0, 20.0)]
    uncompiled, compiled = typical(pairs)
    assert uncompiled / compiled == pytest.approx(1.5)
    assert typical([(30, 20), (30, 20), (90, 60)]) == pytest.approx((30, 20))
    assert spread([(2, 1), (1, 1), (3, 1)]) == (1, 3)
    assert spread([(n, 1) for n in range(1, 6)]) == (2, 4)


def test_equal_times_and_few_pairs_decide_nothing():
    assert faster([(2, 1)] * (LEAD - 1)) is None
    assert faster([(2, 1)] * LEAD) == "compiled"
    assert faster([(1, 1)] * 100) is None
    assert faster([(1, 2)] * 2, head_start=2) is None
