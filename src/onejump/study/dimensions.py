"""Checks across sections of a study: what experiments need of the others, and ranks and levels of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from onejump.study.kinds import FACTS, OfRank
from onejump.study.messages import rule

if TYPE_CHECKING:
    from onejump.study.study import Study


def dimension_mistakes(study: Study, model: str, *, blocks: int, hidden: int) -> list[str]:
    """Write a line for each rank over H, and for each level that the model cannot exit from.

    Parameters
    ----------
    study : Study
    model : str
        Its name, for the messages.
    blocks, hidden : int
        L and H of the model.
    """
    ranks: list[tuple[str, Any]] = [
        (f"shortcuts.{name}.rank", kind.rank)
        for name in study.shortcuts.names()
        if isinstance(kind := study.shortcuts.kind(name), OfRank)
    ]
    levels: list[tuple[str, Any]] = [("evaluation.arbitrary", level) for level in study.evaluation.arbitrary]
    if study.experiments.level_pairs is not None:
        ranks.append(("experiments.level-pairs.rank", study.experiments.level_pairs.rank))
    if study.experiments.rank_sweep is not None:
        ranks += [("experiments.rank-sweep.ranks", rank) for rank in study.experiments.rank_sweep.ranks]
    experiments = {name: study.experiments.options(name) for name in study.experiments.names()}
    levels += [
        (f"experiments.{name}.from_level", options["from_level"])
        for name, options in experiments.items()
        if "from_level" in options
    ]
    return [
        f"{key}: {rank} given, 1 to H = {hidden} accepted for {model}, or a part of H below 1"
        for key, rank in ranks
        if rank > hidden
    ] + [
        f"{key}: level {level} given, 0 to {blocks - 1} accepted for {model}"
        for key, level in levels
        if isinstance(level, int) and level >= blocks
    ]


OF_TOKENS = {
    "sub-words": "it tells exits by the token that is predicted",
    "sub-modules": "it runs the blocks above a level for each of its tokens",
    "copied-states": "it generates text",
    "exit-costs": "it measures steps of decoding",
    "translation": "it generates targets",
    "lens": "it shows what is predicted at each token",
}
"""Experiments and figures that make no sense for classifiers, and why."""


def of_tokens(study: Study) -> list[str]:
    """Give the paths of what is asked for in a study that makes no sense for classifiers."""
    return [path for path in study.drawn() if path.rpartition("/")[2] in OF_TOKENS]


OF_ONE_STATE = ("exit-costs", "copied-states", "translation", "lens")
"""Experiments and figures whose methods read the state of one token at one level, and nothing else."""


def _check_previous(study: Study, labelled: Sequence[str]) -> None:
    """Refuse kinds that read the state of the position before where it is not known."""
    for kind in study.shortcuts.names():
        if not FACTS[kind].reads_previous:
            continue
        if labelled:
            raise rule(
                f"it reads the state of the token before, but corpora.{labelled[0]} has labels, and a "
                "classifier predicts one for all of a text: leave it out",
                f"shortcuts/{kind}",
            )
        for path, section in study.drawn().items():
            if path.rpartition("/")[2] in OF_ONE_STATE and kind in (getattr(section, "methods", None) or ()):
                raise rule(
                    f"{section.said('methods', kind)}, which also reads the last level's state of the token "
                    "before: accepted are methods that read the state of one token at one level",
                    f"{path}/methods",
                )


def check_needs(study: Study) -> None:
    """Refuse experiments without what they need: pairs, another corpus, oracle exits, English text."""
    labelled = [name for name, corpus in study.corpora.items() if corpus.label is not None]
    for path in of_tokens(study) if labelled else ():
        raise rule(
            f"{OF_TOKENS[path.rpartition('/')[2]]}, but corpora.{labelled[0]} has labels, and a classifier "
            "predicts one for all of a text: leave it out",
            path,
        )
    _check_previous(study, labelled)
    targets = study.export.targets
    if labelled and targets:
        raise rule(
            f"{study.export.said('targets')}, but corpora.{labelled[0]} has labels: gates are calibrated for "
            "generation, and a classifier generates nothing: leave it out",
            "export/targets",
        )
    if study.experiments.translation is not None:
        for name, corpus in study.corpora.items():
            if corpus.target is None:
                raise rule(f"it needs pairs: corpora.{name} has no target", "experiments/translation")
    if study.experiments.transfer is not None and len(study.corpora) < 2:
        raise rule("it needs another corpus to evaluate on: add one to corpora", "experiments/transfer")
    if study.experiments.cross_scale is not None and study.experiments.oracle is None:
        raise rule("it compares oracle exits: switch experiments.oracle on", "experiments/cross-scale")
    sub_words = study.experiments.sub_words
    if sub_words is None or not sub_words.parts_of_speech:
        return
    for name, corpus in study.corpora.items():
        if not corpus.language.lower().startswith("en"):
            raise rule(
                f"true given, but corpora.{name}.language is {corpus.language!r}: accepted is English text",
                "experiments/sub-words/parts_of_speech",
            )
