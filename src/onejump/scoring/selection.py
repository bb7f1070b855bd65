"""The stage "selection": keep the jump that serves all levels best (One-Jump-Fits-All)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from onejump.base.errors import OneJumpError
from onejump.base.files import read_table, write_json
from onejump.base.format import SELECTION
from onejump.base.identity import one_model
from onejump.base.scores import LESS_IS_BETTER


def rank_jumps(scores: pd.DataFrame, metric: str) -> pd.Series[float]:
    """Score of each jump, mean over all levels, the best jump first; ties go to the smaller jump.

    For the signed squared cosine this is D_m / (L n), D_m the sum over L levels and n samples that OJFA
    maximises. The mean gives the same ranking, lies in [-1, 1], and can be compared between studies.

    Parameters
    ----------
    scores : DataFrame
        Of `onejump.scoring.scores.score_jumps`.
    metric : str

    Returns
    -------
    Series of float
        By jump.
    """
    means = scores[scores["metric"] == metric].groupby("jump")["score"].mean().sort_index()
    return means.sort_values(ascending=metric in LESS_IS_BETTER, kind="stable")


def select_jump(selection: Path, scores: Path, *, method: str, metric: str) -> None:
    """The stage: write the selected jump, its margin and the ranking of all jumps.

    Parameters
    ----------
    selection : Path
        JSON file to write.
    scores : Path
        Table of `onejump.scoring.scores.score_jumps`.
    method : str
        The kind whose jumps were scored.
    metric : {"signed-squared-cosine", "cosine", "mse", "surprisal"}
        The score to select by.

    Raises
    ------
    OneJumpError
        If the table has no such score.
    """
    table = read_table(scores)
    known = list(dict.fromkeys(table["metric"]))
    if metric not in known:
        raise OneJumpError(
            f"metric {metric!r} given, but {method} jumps are scored by {', '.join(known)}: one of these is "
            "accepted"
        )
    means = rank_jumps(table, metric)
    ranking = [{"jump": int(str(jump)), "score": float(score)} for jump, score in means.items()]
    origin: dict[str, Any] = {
        "model": table["model"].iloc[0],
        "corpus": table["corpus"].iloc[0],
        "split": "training",
        "method": method,
        "metric": metric,
        "samples": int(table["n"].iloc[0]),
        "levels": int(table["level"].nunique()),
    }
    content = {
        "jump": ranking[0]["jump"],
        # Mean over levels and samples.
        "score": ranking[0]["score"],
        # How much better than the second; there is none with a single jump.
        "margin": abs(ranking[0]["score"] - ranking[1]["score"]) if len(ranking) > 1 else None,
        "ranking": ranking,
        # The jump that each score of the table would have selected.
        "by_metric": {name: int(str(rank_jumps(table, name).index[0])) for name in known},
        "computed_from": origin,
    }
    write_json(selection, content, SELECTION, model_digest=one_model(scores))
