"""Memory that a process keeps."""

from __future__ import annotations

import subprocess
import sys

import pytest

STEPS = """
import resource, torch
from ssl_bench.parallel import devices
if {keep}:
    devices.pick_device("cpu")
for i in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(10 << 20) for _ in range(2)]
    del tensors
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool) -> int:
    """Pages that the system hands out in a step which needs 80 MB, after seven of the same."""
    command = [sys.executable, "-c", STEPS.format(keep=keep)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_a_step_takes_the_memory_of_the_step_before() -> None:
    assert faults(keep=True) < 100 < faults(keep=False)
