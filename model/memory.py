"""Tell the C library to keep memory that training frees and asks for again every step."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_TOP_PAD_BYTES = 512 * 1024 * 1024


def keep_freed_memory() -> None:
    """Stop glibc from handing large blocks back to the kernel; elsewhere does nothing.

    Each step allocates the same tensors of tens of megabytes. By default every one is
    mapped afresh and its pages faulted in: measured on two cores, 2,134 target tokens/s
    against 3,496 with this.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, _TOP_PAD_BYTES)
