"""Where to compute."""

from __future__ import annotations

import torch

from onejump.base.errors import StudyError


def pick_device(device: str) -> torch.device:
    """Give the device of this name. `auto` stands for the GPU, or for the CPU if there is no GPU.

    Raises
    ------
    StudyError
        If a GPU is asked for that is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    picked = torch.device(device)
    if picked.type == "cuda" and (picked.index or 0) >= torch.cuda.device_count():
        raise StudyError(f"compute.device: {device} given, this machine has {torch.cuda.device_count()} GPUs")
    return picked
