"""Whether held-out samples suffice for a threshold, and for its calibration."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from onejump.data.document_roles import FEW_DOCUMENTS
from onejump.exits.confidences import Confidences

# Disagreements to expect among the samples that a threshold is chosen on.
_DISAGREEMENTS = 5
# Agreements that the calibration of a level needs.
_AGREEMENTS = 5


def samples_needed(target: float) -> int:
    """Held-out samples that a threshold for an agreement has to be chosen on.

    With this many samples, exits that just reach the target are expected to disagree five times. For targets
    above .99 it is as many as for .99.
    """
    return math.ceil(round(_DISAGREEMENTS / max(1 - target, 0.01), 6))


def too_few_for(target: float, documents: NDArray[np.integer], which: str = "") -> str:
    """Why held-out samples are too few to choose a threshold on; an empty text where they suffice.

    Parameters
    ----------
    target : float
        The agreement to keep.
    documents : ndarray of shape (samples,)
        The document of each sample that the threshold is chosen on.
    which : str
        Which of the held-out documents these are, if they are not all of them.
    """
    samples, count = len(documents), len(np.unique(documents))
    needed = samples_needed(target)
    if samples >= needed and count >= FEW_DOCUMENTS:
        return ""
    return (
        f"no threshold for an agreement of {target:g}: there are {samples} held-out samples of {count} "
        f"documents{which}, and at least {needed} samples of {FEW_DOCUMENTS} documents are needed; more "
        "training sentences, or a larger held_out.thresholds, give them"
    )


def few_agreements(held_out: Confidences, from_level: int) -> str:
    """Which levels have too few agreements to calibrate; an empty text where all have enough.

    There the calibration follows its prior more than the samples.
    """
    agreeing = held_out.hits.sum(0)
    levels = [level for level in range(from_level, len(agreeing)) if agreeing[level] < _AGREEMENTS]
    if not levels:
        return ""
    named = ", ".join(map(str, levels))
    return f"fewer than {_AGREEMENTS} held-out samples agree at level {named}: its odds are a guess"
