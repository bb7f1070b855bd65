"""What a classifier of texts needs of its own: its last map, and the position of a text that its head reads.

The head of a classifier (BERT's pooler and classifier) reads the state of one position of a text: the first
(BERT, RoBERTa, DistilBERT), or the last that is not padding (GPT-2, Llama). A sample is a text at that
position, and the labels take the place of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from onejump.base.errors import ModelError
from onejump.models.norms import TOLERANCE, distance
from onejump.models.seen import is_at_a_position

if TYPE_CHECKING:
    from onejump.models.transformer import Transformer

Reads = Literal["first", "last"]
"""Which position of a text the head of a classifier reads; padding does not count."""


def refuse_other_classifiers(model: Any) -> None:
    """Refuse a model that predicts no single label, or has an encoder and a decoder.

    Raises
    ------
    ModelError
        Naming what is accepted.
    """
    config, accepted = model.config, "accepted is a classifier of texts that predicts one of several labels"
    given = None
    if getattr(config, "is_encoder_decoder", False):
        given, accepted = "an encoder-decoder that classifies", "accepted is a classifier of one stack"
    elif config.num_labels < 2:
        given = f"a model of {config.num_labels} label, a regression"
    elif getattr(config, "problem_type", None) not in (None, "single_label_classification"):
        given = f"a model whose problem_type is {config.problem_type!r}"
    if given is not None:
        raise ModelError(f"{type(model).__name__}: {given} given, {accepted}")


def label_names(config: Any) -> list[str]:
    """Give the names of a classifier's labels, by their numbers."""
    names = {int(number): str(name) for number, name in config.id2label.items()}
    return [names.get(number, f"LABEL_{number}") for number in range(config.num_labels)]


def find_classifier(model: nn.Module, run: Callable[[], Any]) -> nn.Linear:
    """Find the last map of a classifier: the Linear whose output is the model's logits.

    The output can be that of all positions, of which the logits are one (Llama).

    Parameters
    ----------
    model : transformers.PreTrainedModel
    run : callable
        Runs the model over one text and gives back its output.

    Raises
    ------
    ModelError
        If there is none.
    """
    made: dict[nn.Linear, Tensor] = {}

    def keep(module: nn.Module, _: Any, output: Any) -> None:
        assert isinstance(module, nn.Linear)
        made.pop(module, None)  # so that the order is that of the last calls
        made[module] = output

    maps = [module for module in model.modules() if isinstance(module, nn.Linear)]
    handles = [module.register_forward_hook(keep) for module in maps]
    try:
        logits: Tensor = run().logits
    finally:
        for handle in handles:
            handle.remove()
    for module, output in reversed(made.items()):
        if isinstance(output, Tensor) and is_at_a_position(logits, output.to(logits.dtype)):
            return module
    raise ModelError(
        f"{type(model).__name__}: its head was not found: looked for a Linear whose output is the logits "
        f"{tuple(logits.shape)} of a text"
    )


@torch.inference_mode()
def find_position(transformer: Transformer) -> Reads:
    """Find the position that the head of a classifier reads, from a run over a text without padding.

    Raises
    ------
    ModelError
        If it is neither the first nor the last one.
    """
    text, head = transformer.probe(), transformer.head
    every = torch.arange(text.shape[1])
    ours = head.logits(transformer.states(text, torch.zeros_like(every), every)[-1].to(head.gain))
    theirs = transformer.run_whole(text).logits[0].to(ours)
    off = (ours - theirs).abs().amax(1) / ours.std().clamp_min(1e-12)
    places: dict[Reads, float] = {"first": float(off[0]), "last": float(off[-1])}
    best = min(places, key=lambda place: places[place])
    if not places[best] <= TOLERANCE[transformer.model.dtype]:
        raise ModelError(
            f"{type(transformer.model).__name__}: its head was not understood: looked for logits that are "
            "those of the last block's output at the first position of a text, or at the last one, and not a "
            f"mean over positions (off by {places[best]:.3g} of their spread)"
        )
    return best


def check_texts(transformer: Transformer, text: Tensor, tolerance: float) -> None:
    """Make sure that level L at the position that is read, through the head, gives a classifier's logits.

    Parameters
    ----------
    transformer : Transformer
    text : Tensor of shape (1, length), int64
    tolerance : float
        Largest difference of logits, in units of their spread.

    Raises
    ------
    ModelError
        If it does not, or if the logits of a text depend on padding behind it.
    """
    name, head = type(transformer.model).__name__, transformer.head
    kept = max(1, text.shape[1] // 2)
    padded = text.masked_fill(torch.arange(text.shape[1]) >= kept, transformer.padding)
    both = torch.cat([text, padded])
    last = transformer.states(both, torch.arange(2), transformer.read_positions(both))[-1]
    theirs = transformer.run_whole(both).logits.to(head.gain)
    off = distance(head.logits(last.to(head.gain)), theirs)
    if not off <= tolerance:
        raise ModelError(
            f"{name}: its head, applied to the last block's output at the {transformer.reads} position of a "
            f"text, does not give the model's own logits (off by {off:.3g} of their spread): something that "
            "onejump does not know lies between them"
        )
    alone = torch.cat([theirs[:1], transformer.run_whole(text[:, :kept]).logits.to(theirs)])
    off = distance(alone, theirs)
    # The lengths differ, and so does the rounding.
    if not off <= tolerance * (1 if transformer.model.dtype == torch.float32 else 3):
        raise ModelError(
            f"{name}: the logits of a text depend on padding (token {transformer.padding}) behind it (its "
            f"logits move by {off:.3g} of their spread)"
        )


def read_positions(tokens: Tensor, padding: int, reads: Reads) -> Tensor:
    """Give the position that the head reads in each text.

    Parameters
    ----------
    tokens : Tensor of shape (texts, length), int64
        Padded on the right.
    padding : int
    reads : {"first", "last"}

    Returns
    -------
    Tensor of shape (texts,), int64
    """
    if reads == "first":
        return torch.zeros(len(tokens), dtype=torch.long)
    return (torch.arange(tokens.shape[1]) * (tokens != padding)).argmax(1)
