"""A kept jump: one map for all levels, with what is needed to use it on its model."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import torch
from huggingface_hub import ModelCard, ModelHubMixin

from onejump.base.errors import ModelError, OneJumpError
from onejump.base.files import replacing
from onejump.base.levels import check_level
from onejump.exits.gates import Gate
from onejump.exits.learned_gate import Learned, any_gate_from_dict
from onejump.models.source_files import file_digest
from onejump.runtime.card import card_of, card_title
from onejump.runtime.hub import CARD, FIGURES, folder_of_jump, read_card, read_figures, with_the_hub
from onejump.runtime.jump_config import CONFIG, JumpConfig, check_config, read_config, write_config
from onejump.runtime.jump_weights import WEIGHTS, check_shapes, read_weights
from onejump.runtime.weight_hash import different_weights
from onejump.shortcuts.files import save_shortcut
from onejump.shortcuts.kinds.shortlist import ShortlistAt
from onejump.shortcuts.shortcut import LowRank, Shortcut

if TYPE_CHECKING:
    from onejump.models.transformer import Transformer

_LOG = logging.getLogger(__name__)


class OneJump(
    ModelHubMixin,
    library_name="onejump",
    tags=["onejump", "early-exit", "one-jump"],
):
    """One map for all levels of a model, with what is needed to use it: what a study keeps.

    It is a folder, or a repository on the Hugging Face hub: `model.safetensors`, the tensors; `config.json`,
    what the jump is and which model it belongs to; `README.md`, the model card. `from_pretrained`,
    `save_pretrained` and `push_to_hub` are those of `huggingface_hub.ModelHubMixin`. Nothing is pickled.

    Parameters
    ----------
    config : JumpConfig
        What the jump says of itself.
    shortcut : Shortcut
        A low-rank jump, or the kind one-jump or shortlist, whose `at(level)` gives the jump of a level.
    card : str, optional
        The model card, in Markdown. If it is not given, it is written from the configuration.
    figures : mapping of name -> bytes, optional
        PNG files that the card shows, such as "selected.png".

    Raises
    ------
    OneJumpError
        If the shortcut is not what the configuration says.

    Examples
    --------
    >>> jump = onejump.OneJump.from_pretrained("results/default/smollm2-135m/wikipedia-en/export/one-jump")
    >>> jump.config.rank
    5
    """

    def __init__(
        self,
        config: JumpConfig,
        shortcut: Shortcut,
        *,
        card: str | None = None,
        figures: Mapping[str, bytes] | None = None,
    ) -> None:
        check_config(config)
        check_shapes(shortcut, config)
        if shortcut.model_digest not in (None, config.model_digest):
            raise OneJumpError(
                f"the shortcut belongs to the model {shortcut.model_digest}, the configuration to "
                f"{config.model_digest}"
            )
        try:
            gates = {name: any_gate_from_dict(gate, config.blocks) for name, gate in config.gates.items()}
        except OneJumpError as error:
            raise OneJumpError(f"a calibrated gate: {error}") from error
        for name, gate in gates.items():
            if isinstance(gate, Learned) and gate.levels and gate.rank != config.rank:
                raise OneJumpError(
                    f"the calibrated gate {name} was fitted to {gate.rank} coordinates, the jump has "
                    f"{config.rank}"
                )
        self.config = config
        self.shortcut = shortcut
        self.gates: Mapping[str, Gate] = MappingProxyType(gates)
        """Calibrated gates, by the agreement that they keep."""
        self.figures = dict(figures or {})
        self.card = card or card_of(config, figures=list(self.figures))

    @property
    def levels(self) -> range:
        """The early-exit levels that the jump serves: 0 to L - 1."""
        return range(self.config.blocks)

    def at(self, level: int) -> LowRank | ShortlistAt:
        """Give the jump for states of a level.

        Raises
        ------
        OneJumpError
            If the model cannot exit from that level.
        """
        check_level(level, self.config.blocks, "the jump")
        jump = self.shortcut.at(level)
        assert isinstance(jump, LowRank | ShortlistAt)
        return jump

    def to(self, device: torch.device | str) -> Self:
        """Move the jump to a device."""
        self.shortcut.to(device)
        return self

    def with_gates(
        self,
        gates: Mapping[str, Gate],
        measured: Mapping[str, Mapping[str, float]] | None = None,
        expected: Mapping[str, Mapping[int, Mapping[str, float]]] | None = None,
    ) -> Self:
        """Give the same jump with other calibrated gates, and a model card that is written anew.

        Parameters
        ----------
        gates : mapping of name -> Gate
            Such as "95%".
        measured : mapping of name -> mapping, optional
            What was measured of each gate (`onejump.runtime.jump_config.JumpConfig.measured`).
        expected : mapping of name -> mapping of level -> mapping, optional
            What each gate does at its levels (`onejump.runtime.jump_config.JumpConfig.expected`).
        """
        config = replace(
            self.config,
            gates={name: gate.to_dict() for name, gate in gates.items()},
            measured={name: dict(values) for name, values in (measured or {}).items()},
            expected={
                name: {level: dict(shares) for level, shares in levels.items()}
                for name, levels in (expected or {}).items()
            },
        )
        return type(self)(config, self.shortcut, figures=self.figures)

    def __repr__(self) -> str:
        return f"OneJump({card_title(self.config)})"

    def check_fits(self, transformer: Transformer, *, allow_other_weights: bool = False) -> None:
        """Make sure that a model is the one that the jump was fitted to.

        Compared are L, H, V, the kind of the final norm, a hash of the unembedding
        (`onejump.runtime.weight_hash`), and the commit on the hub, where both are known. Of a model that was
        loaded from a folder, nothing else is compared.

        Parameters
        ----------
        transformer : Transformer
            In any precision, on any device.
        allow_other_weights : bool
            Accept a model of the same L and H whose other values differ, such as a fine-tuned one. What
            differs is logged as a warning.

        Raises
        ------
        ModelError
            If a value differs, naming both.
        """
        differing = list(self._differing(transformer))
        if not differing:
            return
        told = "; ".join(f"{name}: {expected} expected, {found} found" for name, expected, found in differing)
        message = f"{self!r} does not fit this {type(transformer.model).__name__}: {told}"
        if any(name in ("L", "H") for name, _, _ in differing):
            raise ModelError(message)
        if not allow_other_weights:
            raise ModelError(f"{message}. If that is meant, say allow_other_weights=True")
        _LOG.warning("%s", message)

    def _differing(self, transformer: Transformer) -> Iterator[tuple[str, object, object]]:
        """Give what differs: its name, the value of the jump's model, and that of the given model."""
        config, head = self.config, transformer.head
        yield from (
            (name, expected, found)
            for name, expected, found in (
                ("L", config.blocks, len(transformer.blocks)),
                ("H", config.hidden, head.hidden),
                ("V", config.vocabulary, head.vocabulary),
                ("norm", config.norm, head.config.norm),
            )
            if expected != found
        )
        if config.vocabulary == head.vocabulary and config.hidden == head.hidden:
            hashes = different_weights(head.unembedding, config.unembedding)
            if hashes is not None:
                yield "unembedding", *hashes
        digest = _digest_of(transformer)
        if (
            config.model_digest
            and digest
            and digest != config.model_digest
            and _alike(digest, config.model_digest)
        ):
            yield "digest", config.model_digest, digest

    def generate_model_card(self, *_: Any, **__: Any) -> ModelCard:
        """Give the model card; its template is `onejump.runtime.card`."""
        return ModelCard(self.card, ignore_metadata_errors=True)

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Write the jump into a folder, which `from_pretrained` reads.

        Parameters
        ----------
        save_directory : path
            It may hold other files. `config.json` is written last, so that a folder which was written in part
            is refused.
        **options
            See `huggingface_hub.ModelHubMixin.save_pretrained`.

        Raises
        ------
        OneJumpError
            If the folder cannot be written.
        """
        if options.pop("config", None) not in (None, self.config, asdict(self.config)):
            raise OneJumpError("config given, but a jump has its own: make another OneJump of it")
        try:
            saved: str | None = super().save_pretrained(save_directory, **options)
        except OSError as error:
            raise OneJumpError(f"{save_directory}: cannot be written ({error.strerror or error})") from error
        return saved

    def _save_pretrained(self, save_directory: Path) -> None:
        config = self.config
        about = {"method": config.method, "level": config.level, "levels": config.blocks}
        weights = save_directory / WEIGHTS
        save_shortcut(weights, self.shortcut, about, model_digest=config.model_digest)
        for name, content in self.figures.items():
            with replacing(save_directory / FIGURES / name) as fresh:
                fresh.write_bytes(content)
        with replacing(save_directory / CARD) as fresh:
            fresh.write_text(self.card, encoding="utf-8")
        write_config(save_directory / CONFIG, config, file_digest(weights))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the jump to the Hugging Face hub.

        Parameters
        ----------
        repo_id : str
            Its name there, such as "user/smollm2-135m-one-jump".
        **options
            See `huggingface_hub.ModelHubMixin.push_to_hub`.

        Returns
        -------
        str
            The address of the commit.

        Raises
        ------
        OneJumpError
            If it could not be uploaded.
        """
        with with_the_hub(repo_id, "could not be uploaded to the hub"):
            commit: str = super().push_to_hub(repo_id, **options)
        return commit

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Load a jump from a folder or from the Hugging Face hub.

        Parameters
        ----------
        pretrained_model_name_or_path : str or path
            A folder that `save_pretrained` or the stage "export" wrote, or a name on the hub.
        revision : str, optional
            Branch, tag or commit on the hub.
        force_download, token, cache_dir, local_files_only
            See `huggingface_hub.ModelHubMixin.from_pretrained`.

        Raises
        ------
        DamagedFileError
            If a file is damaged, or was changed by hand.
        FormatError
            If another onejump wrote the folder, or what it says of itself cannot be.
        OneJumpError
            If there is no such jump, or a file is missing.
        """
        # The mixin would read config.json before anything of it is checked.
        return cls._from_pretrained(
            model_id=str(pretrained_model_name_or_path),
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> Self:
        folder = folder_of_jump(model_id, **options)
        config, digest = read_config(folder / CONFIG)
        shortcut = read_weights(folder / WEIGHTS, config, digest)
        return cls(config, shortcut, card=read_card(folder), figures=read_figures(folder))

    @classmethod
    def from_study(cls, pair: str | Path, method: str | None = None) -> Self:
        """Make a jump of a study's files, as the stage "export" does.

        Parameters
        ----------
        pair : path
            The folder of a model and a corpus: `results/<study>/<model>/<corpus>`.
        method : str, optional
            A method whose one map serves all levels: one-jump, joint, ojfa, ojfa-distilled or
            ojfa-distilled-surprisal. If it is not given, one-jump if the study has it, and ojfa otherwise.

        Raises
        ------
        OneJumpError
            If the study has no such method, a file is missing, or files of different models are there.
        """
        from onejump.runtime.export import jump_of_study

        return cls(*jump_of_study(pair, method))


def _alike(digest: str, other: str) -> bool:
    """Whether both are digests of files, or both are commits: one cannot be compared with the other."""
    return digest.partition(":")[0] == other.partition(":")[0]


def _digest_of(transformer: Transformer) -> str | None:
    """The identity of a model, where it is known without reading its files."""
    commit = getattr(transformer.model.config, "_commit_hash", None)
    return transformer.head.model_digest or (f"commit:{commit}" if commit else None)
