"""What one job costs: operations, bytes, memory, and the time that they take on a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from onejump.planning.devices import Device

LIBRARIES = 0.35e9
"""Bytes of memory that the interpreter and the libraries take."""
FACTORISATION = 45
"""FLOPs of a solve with its eigenvectors, in units of H^3."""
# Seconds until a stage begins: the interpreter starts and imports the libraries.
_START = 2.5


class Cost(NamedTuple):
    """What one job costs."""

    tokens: float = 0.0
    """Tokens that pass through the model."""
    model_flops: float = 0.0
    """FLOPs in the model's number format."""
    single_flops: float = 0.0
    """FLOPs in single precision."""
    double_flops: float = 0.0
    """FLOPs in double precision."""
    moved: float = 0.0
    """Bytes through memory outside matrix products."""
    loaded: float = 0.0
    """Bytes of weights that are loaded."""
    block_calls: float = 0.0
    """Runs of a block that wait for one another, as in generation: each takes a time of its own, however few
    its tokens are."""
    disk: float = 0.0
    """Bytes that are written."""
    memory: float = LIBRARIES
    """Bytes of memory at the peak."""

    @property
    def flops(self) -> float:
        """FLOPs in all number formats."""
        return self.model_flops + self.single_flops + self.double_flops

    def seconds(self, device: Device, dtype: str) -> float:
        """Time of the job on a device, in seconds, for a model of some number format."""
        return _START + self.work(device, dtype)

    def work(self, device: Device, dtype: str) -> float:
        """Time of the job on a device without the start of the interpreter, in seconds."""
        rate = device.single if dtype == "float32" else device.half
        return (
            self.model_flops / rate
            + self.single_flops / device.single
            + self.double_flops / device.double
            + self.moved / device.bandwidth
            + self.loaded / device.loading
            + self.block_calls * device.block_call
        )


def together(jobs: Sequence[Cost]) -> Cost:
    """Sum the costs of jobs; the memory is that of the largest job."""
    total = Cost(*(sum(values) for values in zip(*jobs, strict=True)))
    return total._replace(memory=max(job.memory for job in jobs))
