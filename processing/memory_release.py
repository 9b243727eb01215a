"""Gives freed memory back to the system, where the C library keeps it."""

import ctypes
import functools
import sys


@functools.cache
def _malloc_trim():
    # glibc alone has it; elsewhere there is nothing to do.
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return getattr(library, "malloc_trim", None)


def release_freed_memory() -> None:
    """Return free pages of the heap; some milliseconds, so once a batch and not once a step.

    Every batch has shapes of its own, and decoding grows each cache step by step: the heap that glibc keeps
    goes on growing by fragments, half a gigabyte in an hour of audio.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)
