"""The stage "export": the kept jump of a model and a corpus, in a folder that needs nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open
from torch import Tensor

from onejump.base.checksum import verify
from onejump.base.errors import FormatError, OneJumpError
from onejump.base.files import read_json, read_table, replacing
from onejump.base.format import CALIBRATION, KIND, SELECTION
from onejump.base.identity import one_model
from onejump.base.selected import SELECTED
from onejump.models.description import read_description
from onejump.models.head import HEAD, NormKind
from onejump.runtime.artefact import OneJump
from onejump.runtime.jump_config import JumpConfig
from onejump.runtime.weight_hash import weight_hashes
from onejump.shortcuts.files import load_shortcut, shortcut_path
from onejump.shortcuts.kinds.one_jump import OneJump as OneJumpKind
from onejump.shortcuts.kinds.shortlist import Shortlist
from onejump.shortcuts.methods import methods_of
from onejump.shortcuts.shortcut import LowRank, Shortcut

if TYPE_CHECKING:
    import pandas as pd

_VERSIONS = ("onejump", "torch", "transformers")


def export_jump(
    folder: Path,
    *,
    description: Path,
    head: Path,
    shortcuts: Path,
    selection: Path | None,
    evaluation: Path,
    parameters: Path,
    calibration: Path | None = None,
    figures: Sequence[Path] = (),
    method: str,
    study: str,
    model: str,
    corpus: str,
    license: str | None = None,
    fitted_again: bool = False,
) -> None:
    """The stage: write the kept jump of a model and a corpus.

    Parameters
    ----------
    folder : Path
        To write (`onejump.runtime.artefact.OneJump`).
    description, head : Path
        What the stage "model" wrote.
    shortcuts : Path
        Folder of the method's kind, or of the kind that the jump was selected from.
    selection : Path, optional
        For a selected jump: what the stage "selection" wrote.
    evaluation, parameters : Path
        Tables of the stages of these names.
    calibration : Path, optional
        What the stage "calibration" wrote: gates and what was measured of them, each by name.
    figures : sequence of Path
        PNG files to show in the model card.
    method : str
        one-jump, shortlist, one-residual, one-forward, joint, ojfa, ojfa-distilled or
        ojfa-distilled-surprisal.
    study, model, corpus : str
        Their names.
    license : str, optional
        License of the jump, as the hub names it.
    fitted_again : bool
        Whether the shortcuts are a second fit, without the documents for thresholds, to which the gates
        belong. The scores are those of the fit to all training documents.

    Raises
    ------
    OneJumpError
        If the method has no one map for all levels, or the files belong to different models.
    """
    config, shortcut = gathered(
        method,
        description=description,
        head=head,
        shortcuts=shortcuts,
        selection=selection,
        evaluation=evaluation,
        parameters=parameters,
        calibration=calibration,
        names=(study, model, corpus),
        license=license,
        fitted_again=fitted_again,
    )
    jump = OneJump(config, shortcut, figures={path.name: path.read_bytes() for path in figures})
    with replacing(folder) as fresh:
        jump.save_pretrained(fresh)


def jump_of_study(pair: str | Path, method: str | None = None) -> tuple[JumpConfig, Shortcut]:
    """Gather a jump from the folder of a model and a corpus (`onejump.runtime.artefact.OneJump.from_study`).

    Raises
    ------
    OneJumpError
        If the study has no such method, or a file is missing.
    """
    pair = Path(pair).resolve()
    if not (pair / "evaluation.parquet").is_file():
        raise OneJumpError(
            f"{pair}: results/<study>/<model>/<corpus> was expected, but it has no evaluation.parquet: run "
            "the study first"
        )
    fitted = sorted(path.name for path in (pair / "shortcuts").glob("[!.]*") if path.is_dir())
    method = method or ("one-jump" if "one-jump" in fitted else "ojfa")
    selection = pair / SELECTED[method].selection if method in SELECTED else None
    kind = method
    if selection is not None:
        kind = SELECTED[method].kind or read_json(selection, SELECTION)["computed_from"]["method"]
    if kind not in fitted:
        raise OneJumpError(
            f"{pair}: method {method!r} given, but the study fitted {', '.join(fitted) or 'no kind'}"
        )
    calibration = pair / "calibration" / f"{method}.json"
    again = pair / "early-exit" / "shortcuts" / kind
    fitted_again = calibration.is_file() and again.is_dir()
    return gathered(
        method,
        description=pair.parent / "model.json",
        head=pair.parent / "head.safetensors",
        shortcuts=again if fitted_again else pair / "shortcuts" / kind,
        selection=selection,
        evaluation=pair / "evaluation.parquet",
        parameters=pair / "parameters.parquet",
        calibration=calibration if calibration.is_file() else None,
        names=(pair.parent.parent.name, pair.parent.name, pair.name),
        fitted_again=fitted_again,
    )


def one_map(
    method: str, shortcuts: Path, selection: Path | None, *, levels: int
) -> LowRank | OneJumpKind | Shortlist:
    """Load the one map by which a method serves all levels.

    Parameters
    ----------
    method : str
    shortcuts : Path
        Folder of the method's kind, or of the kind that the jump was selected from.
    selection : Path, optional
        For a selected jump.
    levels : int
        L.

    Raises
    ------
    OneJumpError
        If the method has a map for each level, or the map is of full rank.
    """
    if selection is None:
        path = shortcut_path(shortcuts, None)
        if not path.is_file():
            raise OneJumpError(
                f"export: method {method!r} given, but {shortcuts} has a shortcut for each level: accepted "
                "is one whose one map serves all levels"
            )
        shortcut: Shortcut = load_shortcut(path)
    else:
        chosen = SELECTED[method]
        if chosen.several or chosen.normalised:
            raise OneJumpError(
                f"export: method {method!r} given, accepted is one whose one map serves all levels"
            )
        made = methods_of(chosen.evaluated_with or method, shortcuts, selection, levels=levels)
        shortcut = made[method](0)
    if not isinstance(shortcut, LowRank | OneJumpKind | Shortlist):
        raise OneJumpError(f"export: method {method!r} given, whose kind {shortcut.kind!r} has no exit head")
    return shortcut


def gathered(
    method: str,
    *,
    description: Path,
    head: Path,
    shortcuts: Path,
    selection: Path | None,
    evaluation: Path,
    parameters: Path,
    calibration: Path | None,
    names: tuple[str, str, str],
    license: str | None = None,
    fitted_again: bool = False,
) -> tuple[JumpConfig, Shortcut]:
    """Gather a jump, and what it says of itself, from the files of a study.

    Parameters
    ----------
    method, description, head, shortcuts, selection, evaluation, parameters, calibration
        See `export_jump`.
    license, fitted_again
        See `export_jump`.
    names : (str, str, str)
        Of the study, the model and the corpus.

    Raises
    ------
    OneJumpError
        If the method has no one map for all levels, or the files belong to different models.
    """
    digest = one_model(description, head, shortcuts, selection, evaluation, parameters, calibration)
    known = read_description(description)
    norm, unembedding = _read_head(head)
    shortcut = one_map(method, shortcuts, selection, levels=known.blocks)
    shortcut.model_digest = digest
    measured, numbers = read_table(evaluation), read_table(parameters)
    gates = {"gates": {}} if calibration is None else read_json(calibration, CALIBRATION)
    if "gates" not in gates:
        raise FormatError(f"{calibration}: it has no key 'gates'")
    of_method = measured[measured["method"] == method]
    if of_method.empty:
        raise OneJumpError(f"{evaluation}: it has no method {method!r}, which was to be exported")
    config = JumpConfig(
        method=method,
        kind=shortcut.kind,
        rank=shortcut.rank if isinstance(shortcut, Shortlist) else len(shortcut.up),
        correction=shortcut.correction if isinstance(shortcut, Shortlist) else None,
        level=shortcut.level,
        # The place of a folder on this machine is nobody else's business.
        base_model=known.source if known.revision else Path(known.source).name,
        revision=known.revision,
        model_digest=known.model_digest,
        architecture=known.architecture,
        causal=known.causal,
        task=known.task,
        blocks=known.blocks,
        hidden=known.hidden,
        vocabulary=known.vocabulary,
        norm=norm,
        unembedding=weight_hashes(unembedding, known.dtype),
        study=names[0],
        model=names[1],
        corpus=names[2],
        versions={name: _version(name) for name in _VERSIONS},
        scores={
            str(metric): [float(value) for value in values]
            for metric, values in of_method.sort_values("level").groupby("metric", sort=False)["value"]
            # Of a constant state, r2 is not defined.
            if all(map(math.isfinite, values))
        },
        samples=int(of_method["n"].max()),
        documents=int(of_method["documents"].max()),
        compared=_compared(measured, numbers),
        license=license,
        fitted_again=fitted_again,
        gates={name: dict(gate) for name, gate in gates["gates"].items()},
        measured={
            name: {key: float(value) for key, value in values.items()}
            for name, values in gates.get("measured", {}).items()
        },
        expected={
            name: {int(level): dict(shares) for level, shares in levels.items()}
            for name, levels in gates.get("expected", {}).items()
        },
    )
    return config, shortcut


def _read_head(path: Path) -> tuple[NormKind | None, Tensor]:
    """Read the kind of a head's norm, and its unembedding, of which only what is used is loaded.

    The unembeddings of some models have several GB, and this runs where a study was started.
    """
    verify(path)
    with safe_open(path, framework="pt") as file:
        stated = json.loads((file.metadata() or {}).get(HEAD.kind, "{}"))
        HEAD.check(path, {**stated, KIND: HEAD.kind})
        return stated["about"]["norm"], file.get_tensor("unembedding")


def _compared(evaluation: pd.DataFrame, parameters: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Numbers kept and the mean of each metric over all levels, of each method but the arbitrary ones."""
    numbers = dict(zip(parameters["method"], parameters["numbers"], strict=True))
    means = evaluation.groupby(["method", "metric"], sort=False, as_index=False)["value"].mean()
    found: dict[str, dict[str, float]] = {}
    for method, metric, value in zip(means["method"], means["metric"], means["value"], strict=True):
        if not method.startswith("arbitrary") and math.isfinite(value):
            kept = {"numbers": float(numbers[method])} if method in numbers else {}
            found.setdefault(method, kept)[metric] = float(value)
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a checkout that is not installed
        return "unknown"
