"""How the C library hands out memory: freed buffers are kept for the next step instead of going back to the system.

A forward pass or a training step allocates and frees the same few hundred MB again and again. By default glibc returns large buffers to
the system at once, which then has to find and clear every page anew: on small models a quarter of the time.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys

#: Buffers up to this size are kept; larger ones (weights, whole stores) still come from the system and go back to it.
KEPT_BYTES = 1 << 28
# mallopt's names for: give the end of the heap back above so many free bytes; take a buffer from the system above so many bytes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MOST_BEFORE_2_35 = 32 << 20
_USERS_OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@functools.cache
def keep_freed_buffers() -> bool:
    """Let glibc keep freed buffers of up to `KEPT_BYTES` for this process; False where there is no glibc or the user has chosen.

    The process then holds on to the most it has used at a time, but for larger buffers.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _USERS_OWN):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    is_taken = mallopt(_MMAP_THRESHOLD, KEPT_BYTES) or mallopt(_MMAP_THRESHOLD, _MOST_BEFORE_2_35)
    return bool(is_taken and mallopt(_TRIM_THRESHOLD, 2 * KEPT_BYTES))
