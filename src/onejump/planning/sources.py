"""Checks of what a study reads before anything runs: its text, the files of its models, their sizes."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onejump.base.errors import ModelError, OneJumpError, StudyError
from onejump.base.fetch import is_pattern
from onejump.models.description import known_description
from onejump.models.gguf_header import read_gguf_sizes
from onejump.models.tasks import NAMED, Task, stated_task
from onejump.study.dimensions import OF_TOKENS, of_tokens
from onejump.study.sources import Corpus, Model
from onejump.study.study import Study
from onejump.study.values import HUB_NAME

# Names that configurations of transformers give to L and H.
_BLOCKS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HIDDEN = ("hidden_size", "n_embd", "d_model", "dim")
_LARGEST_CONFIGURATION = 10_000_000  # bytes


def wheel_path(source: Model | Corpus) -> Path:
    """Give the path of a wheel's file once it is fetched; of a pattern, that of the folder of its files."""
    if is_pattern(source.file):
        digest = hashlib.sha256((source.file or "").encode()).hexdigest()[:16]
        return Path("resources", "wheel-files", source.wheel or "", digest)
    return Path("resources", source.wheel or "", source.file or "")


def check_before_run(study: Study, results: Path) -> None:
    """Check all that can be known before a study runs.

    Parameters
    ----------
    study : Study
    results : path
        Folder of all results.

    Raises
    ------
    OneJumpError
        A line for each mistake in what the study reads, in ranks and levels, or in where its results go.
    """
    for folder in (results, results / study.study, Path("resources")):
        if folder.exists() and not folder.is_dir():
            raise OneJumpError(f"{folder}: a folder was expected, but a file has that name: move it away")
    check_sources(study)
    check_known_sizes(study, results)


def check_sources(study: Study) -> None:
    """Make sure that what a study reads is there, as far as this can be seen without loading it.

    Ranks and levels are checked against the sizes that a model's files state. What has to be downloaded
    first is checked by the job that downloads it.

    Raises
    ------
    StudyError
        A line for each mistake: the key, the value given and what is accepted.
    """
    mistakes = []
    for name, corpus in study.corpora.items():
        mistakes += [f"corpora.{name}.{line}" for line in _corpus_mistakes(corpus)]
    for name, model in study.models.items():
        try:
            sizes = _sizes(model)
        except ModelError as error:
            mistakes.append(f"models.{name}.{error}")
        else:
            if sizes is not None:
                mistakes += study.dimension_mistakes(name, blocks=sizes[0], hidden=sizes[1])
            if model.untrained is not None:
                task: Task = "classification" if model.untrained.classifies else "seq2seq"
                mistakes += [*_unfit_corpora(study, name, task), *_unfit_experiments(study, name, task)]
            if model.folder is not None:
                task = stated_task(_configuration(model.folder))
                mistakes += [*_unfit_corpora(study, name, task), *_unfit_experiments(study, name, task)]
    if mistakes:
        raise StudyError("\n".join(dict.fromkeys(mistakes)))


def check_known_sizes(study: Study, results: Path) -> None:
    """Check ranks and levels against the sizes of models that an earlier run has described.

    Parameters
    ----------
    study : Study
    results : path
        Folder of all results.

    Raises
    ------
    OneJumpError
        If a rank is over H, a model cannot exit from a level, or a corpus does not fit what a model is.
    """
    for name in study.models:
        if known := known_description(results / study.study / name / "model.json"):
            study.check_dimensions(name, blocks=known.blocks, hidden=known.hidden)
            unfit = _unfit_corpora(study, name, known.task), _unfit_experiments(study, name, known.task)
            if mistakes := [line for lines in unfit for line in lines]:
                raise StudyError("\n".join(mistakes))


def _unfit_corpora(study: Study, model: str, task: Task) -> Iterator[str]:
    """Write a line for each corpus of a study that a model cannot be run over."""
    for name, corpus in study.corpora.items():
        if corpus.generated is not None and task != "causal":
            yield (
                f"corpora.{name}.generated: {model} is {NAMED[task]}; accepted are causal ones, which can "
                "generate text: give it a study of its own"
            )
        elif corpus.target is None and task == "seq2seq":
            yield (
                f"corpora.{name}: {model} is {NAMED[task]}, which takes pairs: name the key of their targets "
                "with target, or give the model a study of its own"
            )
        elif corpus.target is not None and task != "seq2seq":
            yield (
                f"corpora.{name}.target: {model} is {NAMED[task]}; accepted are encoder-decoders, which take "
                "pairs: give it a study of its own"
            )
        elif corpus.label is not None and task != "classification":
            yield (
                f"corpora.{name}.label: {model} is {NAMED[task]}; accepted are classifiers of texts, which "
                "predict labels: give it a study of its own"
            )


def _unfit_experiments(study: Study, model: str, task: Task) -> Iterator[str]:
    """Write a line for each experiment of a study that makes no sense for a model."""
    if task != "classification":
        return
    for path in of_tokens(study):
        group, _, name = path.partition("/")
        yield (
            f"{group}.{name}: {OF_TOKENS[name]}, but {model} is {NAMED[task]}, which predicts one label for "
            "all of a text: leave it out"
        )
    if study.experiments.joint_optimisation is not None:
        for name, corpus in study.corpora.items():
            if corpus.label is None:
                yield (
                    f"experiments.joint-optimisation: it measures the loss on labels of {model}, which is "
                    f"{NAMED[task]}: name the key label of corpora.{name}"
                )


def _corpus_mistakes(corpus: Corpus) -> Iterator[str]:
    if corpus.dataset is not None:
        if not Path(corpus.dataset).is_dir() and not re.fullmatch(HUB_NAME, corpus.dataset):
            yield (
                f"dataset: {corpus.dataset!r} given, but there is no such folder, and a name on the Hugging "
                "Face hub looks like wikimedia/wikipedia"
            )
        saved = ("dataset_info.json", "dataset_dict.json")
        if any(Path(corpus.dataset, name).is_file() for name in saved):
            for key in ("subset", "revision"):
                value = getattr(corpus, key)
                if value is not None:
                    yield f"{key}: {value!r} given, but it has no effect on a folder's dataset: leave it out"
    if corpus.path is None:
        return
    path = Path(corpus.path)
    given = f"path: {corpus.path!r} given, but"
    try:
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            if not any(path.iterdir()):
                yield f"{given} that folder is empty"
        elif not stat.S_ISREG(kind):
            yield f"{given} that is a pipe or device; accepted is a file or folder of text"
        elif path.stat().st_size == 0:
            yield f"{given} that file is empty"
    except FileNotFoundError:
        yield f"{given} there is no such file or folder ({path.absolute()})"
    except OSError as error:
        yield f"{given} it is not readable: {error.strerror}"


def _sizes(model: Model) -> tuple[int, int] | None:
    """Read L and H from the model's files; None if they cannot be known yet.

    Raises
    ------
    ModelError
        If the files are not those of a model. The message begins with the key.
    """
    if model.tuned is not None:
        return None  # the sizes of another model of the study, which is checked itself
    if model.hub is not None:
        if Path(model.hub).exists():
            raise ModelError(
                f"hub: {model.hub!r} given, but a file or folder of that name lies here and would be taken "
                "for the hub's: write folder instead of hub, or run elsewhere"
            )
        return None
    if model.untrained is not None:
        return model.untrained.blocks, model.untrained.hidden
    if model.folder is not None:
        sizes = _sizes_of_folder(model.folder)
        # How many blocks lie in a list that the study names, the configuration does not say.
        return None if model.modules is not None and model.modules.blocks is not None else sizes
    path = Path(model.gguf) if model.gguf else wheel_path(model)
    if model.wheel and not path.exists():
        return None
    key = f"gguf: {str(path)!r} given, but" if model.gguf else "file:"
    if not path.exists():
        raise ModelError(f"{key} there is no such file ({path.absolute()})")
    if not path.is_file():
        raise ModelError(f"{key} that is no file")
    try:
        return read_gguf_sizes(path)
    except ModelError as error:
        raise ModelError(f"{key} {error}") from None


def _sizes_of_folder(folder: str) -> tuple[int, int] | None:
    content = _configuration(folder)
    text = content.get("text_config")
    stated = [content, text] if isinstance(text, dict) else [content]
    blocks, hidden = _first(stated, _BLOCKS), _first(stated, _HIDDEN)
    return None if blocks is None or hidden is None else (blocks, hidden)


def _configuration(folder: str) -> dict[str, Any]:
    given = f"folder: {folder!r} given, but"
    path = Path(folder)
    if not path.is_dir():
        what = "that is no folder" if path.exists() else f"there is no such folder ({path.absolute()})"
        raise ModelError(f"{given} {what}; for a model of the Hugging Face hub write hub")
    configuration = path / "config.json"
    if not configuration.is_file():
        raise ModelError(f"{given} it holds no config.json: accepted is a folder that save_pretrained wrote")
    try:
        if configuration.stat().st_size > _LARGEST_CONFIGURATION:
            raise ValueError("too large")
        content = json.loads(configuration.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no object")
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{given} its config.json is not readable: {error}") from None
    return content


def _first(stated: list[dict[str, Any]], names: tuple[str, ...]) -> int | None:
    numbers = (part.get(name) for part in reversed(stated) for name in names)
    return next((number for number in numbers if isinstance(number, int) and number > 0), None)
