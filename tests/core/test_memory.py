"""Freed buffers are kept: a step that allocates what the one before it freed finds no fresh page. Each case needs a process of its own."""

import os
import subprocess
import sys

import pytest

WORK = """
import ctypes, resource
from armillary.core.memory import keep_freed_buffers
kept = keep_freed_buffers() if {wanted} else None
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def step():
    buffer = libc.malloc(48 << 20)
    ctypes.memset(buffer, 1, 48 << 20)
    libc.free(buffer)

step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(wanted: bool, **variables: str) -> tuple[str, int]:
    """What `keep_freed_buffers` said, and page faults of ten steps of 48 MiB."""
    code = WORK.format(wanted=wanted)
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | variables, capture_output=True, text=True, check=True)
    said, faults = done.stdout.split()
    return said, int(faults)


@pytest.fixture
def is_glibc() -> None:
    import platform

    if platform.libc_ver()[0] != "glibc" or any(name.startswith(("MALLOC_", "GLIBC_")) for name in os.environ):
        pytest.skip("no glibc, or its malloc is configured by the environment")


@pytest.mark.usefixtures("is_glibc")
def test_freed_buffers_are_used_again() -> None:
    said, faults = run(wanted=True)
    assert said == "True"
    assert faults < 1000  # one step touches 12,288 pages


@pytest.mark.usefixtures("is_glibc")
def test_without_it_every_step_takes_fresh_pages() -> None:
    assert run(wanted=False)[1] > 10 * 1000


@pytest.mark.usefixtures("is_glibc")
def test_what_the_user_has_chosen_stands() -> None:
    assert run(wanted=True, MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"
