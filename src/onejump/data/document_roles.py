"""The stage "document roles": which document each sentence comes from, and what that document is used for.

Whole documents are held out, not sentences, and each for one purpose only: a document that decided when a
training stops must not decide a threshold too. The roles are drawn once for a corpus, into one file that all
readers use.

| role | use |
|---|---|
| fit | shortcuts are fitted to it |
| stopping | its loss decides when the training of a distilled kind stops; nothing is trained on it |
| thresholds | early exit chooses its thresholds on it; no shortcut that exits was fitted to it |
| validation | shortcuts are measured on it; it has no other use |
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from onejump.base.errors import StudyError
from onejump.base.files import read_table, write_table

FIT, STOPPING, THRESHOLDS, VALIDATION = "fit", "stopping", "thresholds", "validation"
FEW_DOCUMENTS = 10
"""With fewer documents, an average over documents has no standard error: it would be too uncertain."""
_LOG = logging.getLogger(__name__)


def draw_roles(documents: Iterable[str], *, stopping: float, thresholds: float, seed: int) -> dict[str, str]:
    """Draw the role of each training document.

    Documents are sorted by a hash of their name and the seed. The first ones are for stopping, the last ones
    for thresholds. So the order in which they are given does not matter, and few documents change their role
    when another one is added.

    Parameters
    ----------
    documents : iterable of str
        Names of the training documents. A name may occur many times.
    stopping, thresholds : float
        The part of the documents that each role gets. Each gets at least one document if one is left to fit.
    seed : int

    Returns
    -------
    dict of document -> {"fit", "stopping", "thresholds"}
    """

    def drawn(document: str) -> bytes:
        return hashlib.sha256(f"{seed} {document}".encode("utf-8", "surrogatepass")).digest()

    ordered = sorted(set(documents), key=drawn)
    count = len(ordered)
    first = min(max(1, round(stopping * count)), count - 1)
    last = min(max(1, round(thresholds * count)), count - 1 - first)
    roles = [STOPPING] * first + [FIT] * (count - first - last) + [THRESHOLDS] * last
    return dict(zip(ordered, roles, strict=True))


def assign_documents(
    documents: Path,
    sentences: Path,
    *,
    stopping: float,
    thresholds: float,
    seed: int,
    needed_roles: Sequence[str] = (),
) -> None:
    """The stage "document roles": write the document and the role of each sentence.

    Parameters
    ----------
    documents : Path
        Table to write, with columns sentence_id, document (a number, counted from 0 in the order of the
        corpus table), split, role ("fit", "stopping" or "thresholds" for training, "validation").
    sentences : Path
        Table of the corpus: of sentences, or of generated texts.
    stopping, thresholds, seed
        See `draw_roles`.
    needed_roles : sequence of {"stopping", "thresholds"}
        Roles that the study needs documents for.

    Raises
    ------
    StudyError
        If the training documents are too few for a role that is needed.
    """
    table = read_table(sentences)[["sentence_id", "document", "split"]]
    training = table.loc[table["split"] == "training", "document"]
    roles = draw_roles(training, stopping=stopping, thresholds=thresholds, seed=seed)
    for role in needed_roles:
        if role not in roles.values():
            least = 3 if role == THRESHOLDS else 2
            raise StudyError(
                f"held_out.{role}: whole documents are held out of the fits, but all training sentences of "
                f"{sentences.stem} come from {len(roles)} document{'s' if len(roles) > 1 else ''}; at least "
                f"{least} are needed: give more documents, or split what there is into several"
            )
    table["role"] = table["document"].map(roles).where(table["split"] == "training", VALIDATION)
    table["document"] = table["document"].factorize()[0].astype("int32")
    for name, of_role in table.groupby("role", sort=False):
        _LOG.info("%s: %d sentences of %d documents", name, len(of_role), of_role["document"].nunique())
    write_table(documents, table)
