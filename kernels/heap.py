"""Memory that a process keeps: on a CPU, giving it back and taking it again costs page faults."""

import ctypes
import sys
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
KEPT_BYTES = 2**30


def keep_heap() -> None:
    """Let glibc reuse what large tensors leave behind, instead of unmapping it.

    Otherwise a pass over 200 tokens takes one and a half times as long as over 180, or not,
    depending on what was allocated before. Elsewhere than on Linux with glibc this does nothing.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
