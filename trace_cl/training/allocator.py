"""What the memory allocator of a CPU does with what is freed."""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Names and numbers of malloc.h."""


def keep_freed_memory() -> None:
    """Let what is freed stay with the process, for the next tensor: a step frees and allocates the same gigabytes again
    and again, and given back to the kernel each of their pages is a fault at its first touch.

    glibc's malloc alone is told; its answer, whether it will, makes no difference to anything but speed.
    """
    if platform.libc_ver()[0] == "glibc":
        malloc = ctypes.CDLL(None)
        malloc.mallopt(_M_MMAP_MAX, 0)
        malloc.mallopt(_M_TRIM_THRESHOLD, -1)
