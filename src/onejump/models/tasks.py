"""What a model is trained to do, from the names of its classes. Importing this module is quick.

| task | a sample is | its state depends on |
|---|---|---|
| causal | a token of a text | that token and the ones before it |
| masked | a masked token of a text | all of the text |
| seq2seq | a token of a target text | all of the source text, that token and the target's tokens before it |
| classification | a text | all of the text |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

Task = Literal["causal", "masked", "seq2seq", "classification"]
"""What a model is trained to do."""

TASKS: tuple[Task, ...] = get_args(Task)

NAMED: dict[Task, str] = {
    "causal": "a causal language model",
    "masked": "a masked language model",
    "seq2seq": "an encoder-decoder",
    "classification": "a classifier of texts",
}
"""A model of each task, in words, for messages."""

MASKED = "ForMaskedLM"
"""The names of classes of masked language models end so."""
CLASSIFICATION = "ForSequenceClassification"
"""The names of classes that classify a text end so."""


def task_of_class(name: str, *, encoder_decoder: bool = False) -> Task:
    """Tell the task of a model from the name of its class.

    Parameters
    ----------
    name : str
        Such as BertForMaskedLM.
    encoder_decoder : bool
        What the model's configuration states as `is_encoder_decoder`.
    """
    if name.endswith(MASKED):
        return "masked"
    if name.endswith(CLASSIFICATION):
        return "classification"
    return "seq2seq" if encoder_decoder else "causal"


def stated_task(configuration: Mapping[str, Any]) -> Task:
    """Tell the task of the model that a configuration describes, from the architectures that it names.

    Parameters
    ----------
    configuration : mapping
        What a config.json holds, or the `to_dict()` of a configuration of transformers.
    """
    named = configuration.get("architectures")
    names = [str(name) for name in named] if isinstance(named, list) else []
    encoder_decoder = bool(configuration.get("is_encoder_decoder"))
    tasks = [task_of_class(name, encoder_decoder=encoder_decoder) for name in names]
    # A configuration can name several classes, and one without a head, such as BartModel, says nothing.
    said = (task for task in tasks if task in ("masked", "classification"))
    return next(said, "seq2seq" if encoder_decoder else "causal")
