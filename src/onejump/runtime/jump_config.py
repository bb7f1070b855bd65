"""What a kept jump says of itself: `config.json` of its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from onejump.base.binding import converted
from onejump.base.checksum import PLACEHOLDER, stamp, verify
from onejump.base.errors import DamagedFileError, FormatError, MissingFileError, OneJumpError
from onejump.base.files import replacing
from onejump.base.format import FORMAT, KIND, Format
from onejump.models.tasks import Task

CONFIG = "config.json"
KEPT_JUMP = Format("jump", 1)
REMEDY = "fetch the jump's folder again, or let the study export it again"
"""What the reader of a message has to do about a damaged folder."""

_STATED, _CHECKSUM, _WEIGHTS = "onejump", "checksum", "weights"
# Scores of 4096 levels, the most that a model may have here, are about 1 MB.
_LARGEST_FILE = 10_000_000

Blocks = Annotated[int, Field(ge=1, le=4096)]
Width = Annotated[int, Field(ge=1, le=1_000_000)]
Vocabulary = Annotated[int, Field(ge=1, le=100_000_000)]
Level = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
# Without control characters, which could command the terminal that a jump of somebody else is shown on.
Name = Annotated[str, Field(max_length=1000, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
Precision = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class JumpConfig:
    """What a kept jump is, which model it belongs to, and how good it was in its study."""

    method: Name
    """The method of the study: one-jump, shortlist, one-residual, one-forward, joint, or ojfa or
    ojfa-distilled for a selected jump."""
    kind: Name
    """Kind of the map: a module of `onejump.shortcuts.kinds`."""
    rank: Width
    """r."""
    correction: Width | None = None
    """Rank of the correction of the state that judges a shortlist's candidates; None if there is none."""
    level: Level | None = None
    """The level that a selected jump was fitted at; None if the jump was fitted to all levels."""
    base_model: Name
    """The model's name on the hub; of a model from a folder, the name of the folder."""
    revision: Name | None = None
    """Commit on the hub; None if the model came from a folder."""
    model_digest: Name | None = None
    """The model's identity (`onejump.models.description`), where it is known."""
    architecture: Name
    """The name of the model's class in transformers."""
    causal: bool
    """Whether a token's state depends on the tokens before it only."""
    blocks: Blocks
    """L."""
    hidden: Width
    """H."""
    vocabulary: Vocabulary
    """V."""
    norm: Literal["rms", "layer"] | None
    """Kind of the final norm; None if the model has none."""
    unembedding: Annotated[dict[Precision, Name], Field(min_length=1)]
    """Hash of the unembedding for each precision that it is known in (`onejump.runtime.weight_hash`)."""
    study: Name
    """The study that fitted the jump."""
    model: Name
    """The model's name in the study."""
    corpus: Name
    """The corpus that the jump was fitted to, as the study calls it."""
    versions: dict[Name, Name] = field(default_factory=dict)
    """Versions of onejump, torch and transformers that exported the jump."""
    scores: dict[Name, list[Finite]] = field(default_factory=dict)
    """Each metric by level, mean over the validation samples."""
    samples: Level = 0
    """Validation samples of the scores."""
    documents: Level = 0
    """Documents that these samples come from."""
    compared: dict[Name, dict[Name, Finite]] = field(default_factory=dict)
    """Of each method of the study, the numbers that it keeps and the mean of each metric over all levels."""
    task: Task | None = None
    """What the model is trained to do; None in a jump that was exported before this was written down."""
    license: Name | None = None
    """License of the jump, as the hub names it; None leaves it to whoever publishes the jump."""
    fitted_again: bool = False
    """Whether the jump is a second fit, without the documents that the gates' thresholds were chosen on. The
    scores are those of the fit to all training documents."""
    gates: dict[Name, dict[Name, Any]] = field(default_factory=dict)
    """Calibrated gates, by the agreement that they keep (99%, 95%, 90%), for `onejump.exits.gates`."""
    measured: dict[Name, dict[Name, Finite]] = field(default_factory=dict)
    """What was measured of each gate: agreement, blocks, blocks_saved, flops_saved, n."""
    expected: dict[Name, dict[Level, dict[Name, Share]]] = field(default_factory=dict)
    """Of each gate and level that it checks: `exits`, the share of the tokens checked there that exit, and
    `kept`, the share of these that agree with the full model (`onejump.exits.gate_calibration`)."""

    @property
    def model_name(self) -> str:
        """The model's name on the hub, or the one that the study gives it."""
        return self.base_model if self.is_on_hub else self.model

    @property
    def is_on_hub(self) -> bool:
        """Whether `base_model` is a name on the hub."""
        return self.revision is not None


def write_config(path: str | Path, config: JumpConfig, weights: str) -> None:
    """Write `config.json`.

    Parameters
    ----------
    path : path
    config : JumpConfig
    weights : str
        SHA-256 of the file of tensors beside it, so that the two stay together.
    """
    content = {_STATED: KEPT_JUMP.statement(), **asdict(config), _WEIGHTS: weights, _CHECKSUM: PLACEHOLDER}
    with replacing(path) as fresh:
        fresh.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        stamp(fresh)


def read_config(path: str | Path) -> tuple[JumpConfig, str]:
    """Read `config.json`.

    Returns
    -------
    config : JumpConfig
    weights : str
        SHA-256 that the file of tensors beside it has to have.

    Raises
    ------
    DamagedFileError
        If the file is damaged, or was changed by hand.
    FormatError
        If another program or another onejump wrote it, or a key is missing, unknown or impossible.
    OneJumpError
        If it is missing, not readable, or far too large.
    """
    content = _parsed(Path(path))
    stated = content.pop(_STATED, None)
    if not isinstance(stated, dict) or not {KIND, FORMAT} <= set(stated):
        raise FormatError(f"{path}: the configuration of another program, that of a kept jump was expected")
    KEPT_JUMP.check(path, stated, REMEDY)
    verify(path, REMEDY)
    content.pop(_CHECKSUM, None)
    weights = content.pop(_WEIGHTS, None)
    if not isinstance(weights, str):
        raise FormatError(f"{path}: weights: {weights!r} given, accepted is a SHA-256")
    try:
        config: JumpConfig = converted(content, JumpConfig, "config")
        check_config(config)
    except OneJumpError as error:
        raise FormatError(f"{path}: {error}") from error
    return config, weights


def check_config(config: JumpConfig) -> None:
    """Refuse a configuration whose values do not belong together.

    Raises
    ------
    OneJumpError
        If the rank is over H, the level is none of the model's, a metric does not have a value for each
        level, or something is expected of a gate or a level that is not there.
    """
    if config.rank > config.hidden:
        raise OneJumpError(f"rank: {config.rank} given, accepted is 1 to H = {config.hidden}")
    if config.level is not None and config.level >= config.blocks:
        raise OneJumpError(f"level: {config.level} given, accepted is 0 to {config.blocks - 1}")
    for name, levels in config.expected.items():
        checked = config.gates.get(name, {}).get("levels", ())
        for level, shares in levels.items():
            if level not in checked or set(shares) != {"exits", "kept"}:
                raise OneJumpError(
                    f"expected.{name}: level {level} with {', '.join(shares) or 'nothing'} given, accepted "
                    "are exits and kept of the levels that the gate of that name checks"
                )
    for metric, values in config.scores.items():
        if len(values) != config.blocks:
            raise OneJumpError(
                f"scores.{metric}: {len(values)} values given, one for each of the levels 0 to "
                f"{config.blocks - 1} is accepted"
            )


def _parsed(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        if size > _LARGEST_FILE:
            raise FormatError(
                f"{path}: {size / 1e6:.0f} MB given, a configuration of at most {_LARGEST_FILE / 1e6:.0f} MB "
                "is accepted"
            )
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise MissingFileError(path) from error
    except OSError as error:
        raise OneJumpError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DamagedFileError(f"{path}: not readable as JSON ({reason}): {REMEDY}") from error
    if not isinstance(content, Mapping):
        raise FormatError(f"{path}: the configuration of a kept jump was expected")
    return dict(content)
