"""How long a processor takes, found out by a small call that can be left: only then is it called again and again."""

from __future__ import annotations

import time

import torch

from ..mounted import Mounted
from .bench import dtypes_of
from .cases import MASKS
from .trial import Unavailable, bench, small_case

#: Seconds of a small call from which on a check, which makes about a hundred of them, is not gone on with.
SLOW = 0.5


def pace(mounted: Mounted) -> float:
    """Evidence: seconds of the slowest small call, without and with a mask. A first call may have to make something, so
    a slow one is made again. 0 where it cannot run here.

    Raises:
        Overdue: when a call takes all the time that there is.
    """
    dtypes = sorted(dtypes_of(mounted), key=lambda dtype: dtype != torch.float32)
    small = small_case(mounted, dtypes[0]) if dtypes else None
    slowest = 0.0
    if small is None:
        return slowest
    try:
        with bench(mounted, small) as real:
            for mask in (None, MASKS[-1]):
                inputs = real.inputs(mask)
                for _ in range(2):
                    start = time.monotonic()
                    real.run(inputs)
                    seconds = time.monotonic() - start
                    if seconds < SLOW:
                        break
                slowest = max(slowest, seconds)
    except Unavailable:
        return slowest
    except mounted.attendance.stops:
        raise
    except BaseException:  # what it raises is the other layers' to tell
        return slowest
    return slowest
