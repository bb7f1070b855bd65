"""The stage "cross scale": what an all-knowing gate would save, by depth and size of the study's models.

The paper leaves open how the saving changes with scale (arXiv 2412.01455). A study of
one family's models in several sizes answers it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from onejump.base.files import read_table, write_table
from onejump.models.description import read_description


def compare_models(
    table: Path, summaries: Sequence[Path], descriptions: Sequence[Path], *, models: Sequence[str]
) -> None:
    """The stage: the oracle exits of all models and corpora, with the sizes of the models.

    Parameters
    ----------
    table : Path
        To write: the rows of all summaries, and the columns hidden (H) and parameters of the model. Models
        come in the order of their parameters.
    summaries : sequence of Path
        Tables `summary` of `onejump.experiments.oracle.find_oracle_exits`, of all models and corpora.
    descriptions : sequence of Path
        What the model stage found out about each model.
    models : sequence of str
        Names of the models, in the order of the descriptions.
    """
    known = {
        name: read_description(description) for name, description in zip(models, descriptions, strict=True)
    }
    found = pd.concat([read_table(path) for path in summaries], ignore_index=True)
    for size in ("hidden", "parameters"):
        found[size] = [getattr(known[model], size) for model in found["model"]]
    write_table(table, found.sort_values("parameters", kind="stable").reset_index(drop=True))
