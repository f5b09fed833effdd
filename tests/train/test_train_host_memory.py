"""Freed memory is kept, or it is said that it cannot be."""

import ctypes
import subprocess
import sys

from langwright.train import host_memory
from langwright.train.host_memory import keep_freed_memory

# The module alone: importing the package takes a while.
FAULTS = """
import resource, runpy
module = runpy.run_path({path!r})
if {keep}:
    assert module["keep_freed_memory"]()
def work():
    for _ in range(4):
        bytearray(b"x") * (96 << 20)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_no_page_faults_for_memory_used_before():
    if not keep_freed_memory():
        return  # not glibc
    faults = [
        int(
            subprocess.check_output(
                [sys.executable, "-c", FAULTS.format(keep=keep, path=host_memory.__file__)]
            )
        )
        for keep in (False, True)
    ]
    assert faults[1] < 500 < faults[0]


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert keep_freed_memory() is False
