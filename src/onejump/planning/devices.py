"""Devices that jobs run on, and the rates that jobs were seen to reach there."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Device:
    """A device and the rates that a job reaches on it."""

    name: str
    half: float
    """FLOP/s in half precision."""
    single: float
    """FLOP/s in single precision."""
    double: float
    """FLOP/s in double precision."""
    bandwidth: float
    """Bytes a second through the many small operations between matrix products."""
    memory: float
    """Bytes of memory."""
    loading: float = 1e9
    """Bytes of weights a second, from disk to where they compute."""
    block_call: float = 1e-3
    """Seconds that it takes to start the operations of one block."""

    def with_rate(self, flops: float) -> Device:
        """Give the same device another rate in half precision; other precisions change in proportion."""
        share = flops / self.half
        return replace(
            self,
            name=f"{self.name} at {flops / 1e12:g} TFLOP/s",
            half=flops,
            single=self.single * share,
            double=self.double * share,
        )


DEVICES = {
    # Two cores of an EPYC; half precision is no faster than single there.
    "cpu": Device("2 CPU cores", 0.18e12, 0.18e12, 0.09e12, 4.8e9, 16e9),
    "node": Device("16 CPU cores", 1.2e12, 1.2e12, 0.6e12, 40e9, 128e9),
    "h100": Device("H100", 400e12, 45e12, 45e12, 1.5e12, 80e9),
}
