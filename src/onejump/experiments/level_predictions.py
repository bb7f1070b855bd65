"""The stage "level predictions": what one model predicts at each level, and its loss on validation text.

It is one side of the comparison of models before and after joint optimisation
(`onejump.experiments.joint_optimisation`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from onejump.base.device import pick_device
from onejump.base.errors import CorpusError
from onejump.base.files import read_table, write_table
from onejump.base.identity import one_model
from onejump.data.document_roles import VALIDATION
from onejump.data.generated_rows import prompt_lengths, tokens_of_rows
from onejump.data.held_out import documents_of_samples
from onejump.data.store import ActivationStore
from onejump.experiments.pair_losses import losses_of_pairs
from onejump.models.description import ModelDescription, read_description
from onejump.models.head import Head
from onejump.models.loading import load_described, load_described_tokenizer
from onejump.models.logit_parts import samples_together
from onejump.scoring.standard_errors import Clusters

if TYPE_CHECKING:
    from onejump.models.transformer import Transformer

MEASURES = ("probability", "entropy", "agreement", "divergence")
"""What is measured at each level."""
ACCURACY = "accuracy"
"""What is measured besides where the labels of texts are known."""


@torch.inference_mode()
def levels_of(store: ActivationStore, head: Head, documents: Any, device: torch.device) -> pd.DataFrame:
    """Measure the distribution of each level, through the model's own head.

    Parameters
    ----------
    store : ActivationStore
    head : Head
    documents : ndarray of shape (samples,)
        The document of each sample, for standard errors.
    device : torch.device

    Returns
    -------
    DataFrame
        See `measure_level_predictions`.
    """
    head = head.to(device)
    clusters = Clusters(documents)
    known = store.labels()
    labels = None if known is None else torch.from_numpy(known.astype(np.int64)).to(device)
    measures = MEASURES if labels is None else (*MEASURES, ACCURACY)
    sums = clusters.sums(store.levels, len(measures))
    together = samples_together(head, device)
    passed = 0
    with tqdm(total=store.samples, unit="sample", disable=None) as progress:
        for block in store.blocks(range(store.levels)):
            for start in range(0, len(block[0]), together):
                states = (torch.from_numpy(level[start : start + together]).to(device) for level in block)
                here = slice(passed + start, passed + min(start + together, len(block[0])))
                of_labels = None if labels is None else labels[here]
                measured = torch.stack(list(_measured(head, states, of_labels)), 1)
                clusters.add(sums, measured, here)
                progress.update(len(measured))
            passed += len(block[0])
    mean, error = (found.numpy() for found in clusters.mean_and_error(sums))
    columns: dict[str, Any] = {"level": range(store.levels)}
    for place, name in enumerate(measures):
        columns |= {name: mean[:, place], f"{name}_stderr": error[:, place]}
    found = pd.DataFrame(columns).assign(n=store.samples, documents=clusters.documents)
    found.loc[store.levels - 1, ["divergence", "divergence_stderr"]] = np.nan
    return found


def _measured(head: Head, states: Iterator[Tensor], labels: Tensor | None) -> Iterator[Tensor]:
    """For each level, `MEASURES` of each sample, and accuracy if labels are known: (n, 4) or (n, 5).

    The level's divergence is from the next level.
    """
    before: Tensor | None = None  # of two levels at a time, so that memory does not grow with L
    probability, entropy, tokens, apart = [], [], [], []
    for state in states:
        logs = torch.log_softmax(head.logits(state), -1)
        likely = logs.exp()
        probability.append(likely.amax(-1))
        entropy.append(-(likely * logs).sum(-1))
        tokens.append(logs.argmax(-1))
        if before is not None:
            apart.append(jensen_shannon(before, logs))
        before = logs
    apart.append(torch.zeros_like(probability[-1]))
    for place in range(len(tokens)):
        agrees = (tokens[place] == tokens[-1]).to(probability[place].dtype)
        found = [probability[place], entropy[place], agrees, apart[place]]
        if labels is not None:
            found.append((tokens[place] == labels).to(agrees.dtype))
        yield torch.stack(found, 1)


def jensen_shannon(one: Tensor, other: Tensor) -> Tensor:
    """Jensen-Shannon divergence in nats, 0 to ln 2, of log probabilities (n, V) from others (n, V)."""
    between = torch.logaddexp(one, other) - float(np.log(2))
    found: Tensor = ((one.exp() * (one - between)).sum(-1) + (other.exp() * (other - between)).sum(-1)) / 2
    return found


@torch.inference_mode()
def losses_of(
    transformer: Transformer, sequences: Sequence[Sequence[int]], first: Sequence[int], batch_tokens: int
) -> Tensor:
    """Sum the cross-entropy of the next tokens of sequences, through all blocks of a causal model.

    Parameters
    ----------
    transformer : Transformer
    sequences : sequence of sequence of int
    first : sequence of int
        The first position of each sequence whose prediction counts.
    batch_tokens : int
        Most tokens of a pass, padding included.

    Returns
    -------
    Tensor of shape (sequences, 2), float64
        The sum over the sequence's tokens that count, in nats, and their number.
    """
    found = torch.zeros(len(sequences), 2, dtype=torch.float64)
    order = sorted(range(len(sequences)), key=lambda number: -len(sequences[number]))
    together = samples_together(transformer.head, transformer.device)
    while order:
        longest = len(sequences[order[0]])
        alone = transformer.context is not None and longest > transformer.context
        some = order[: 1 if alone else max(1, batch_tokens // longest)]
        order = order[len(some) :]
        tokens = torch.zeros(len(some), longest, dtype=torch.long)
        rows, positions = [], []
        for row, number in enumerate(some):
            sequence = torch.as_tensor(list(sequences[number]))
            tokens[row, : len(sequence)] = sequence
            counted = torch.arange(first[number], len(sequence) - 1)
            rows.append(torch.full_like(counted, row))
            positions.append(counted)
        of_row, position = torch.cat(rows), torch.cat(positions)
        last = transformer.states(tokens, of_row, position)[-1].float()
        targets = tokens[of_row, position + 1].to(last.device)
        numbers = torch.tensor(some)[of_row]
        for start in range(0, len(last), together):
            part = slice(start, start + together)
            logits = transformer.head.logits(last[part].to(transformer.head.gain))
            lost = torch.nn.functional.cross_entropy(logits, targets[part], reduction="none").double().cpu()
            found.index_add_(0, numbers[part], torch.stack([lost, torch.ones_like(lost)], 1))
    return found


def _losses_of_samples(store: ActivationStore, head: Head, device: torch.device) -> Tensor:
    """Of each masked token, or label, of a store: (samples, 3), float64.

    Its cross-entropy, the number 1, and whether it is the most likely one.
    """
    head = head.to(device)
    own = torch.from_numpy(store.of_samples("token").astype(np.int64)).to(device)
    found = torch.ones(store.samples, 3, dtype=torch.float64)
    with torch.inference_mode():
        for part, states in store.parts(store.levels - 1, samples_together(head, device)):
            logits = head.logits(torch.from_numpy(states).to(device))
            found[part, 0] = (
                torch.nn.functional.cross_entropy(logits, own[part], reduction="none").double().cpu()
            )
            found[part, 2] = (logits.argmax(-1) == own[part]).double().cpu()
    return found


def measure_level_predictions(
    levels: Path,
    losses: Path,
    shards: Sequence[Path],
    head: Path,
    documents: Path,
    sentences: Path,
    description: Path,
    weights: Path | None = None,
    *,
    samples: int,
    max_tokens: int,
    device: str = "auto",
    batch_tokens: int = 4096,
) -> None:
    """Measure one model before or after joint optimisation: the stage.

    Parameters
    ----------
    levels : Path
        Table to write, a row for each level 0 to L, with columns

        - level;
        - probability: of the level's most likely token, the mean over validation samples;
        - entropy: of its distribution, in nats;
        - agreement: the share of samples whose most likely token is the full model's;
        - divergence: the Jensen-Shannon divergence of its distribution from the next level's, in nats (0 to
          ln 2); NaN at level L;
        - accuracy: the share of texts whose most likely label is their own, of a classifier;
        - the same with _stderr, n, documents.
    losses : Path
        Table to write, a row for each document, with columns document, loss (the sum over its tokens of
        -ln q(token), q the final distribution, in nats) and tokens. Of a causal model these are the next
        tokens of whole validation sentences; of generated text the generated ones; of an encoder-decoder
        the tokens of the targets; of a masked model the masked tokens of the samples; of a classifier the
        labels of texts, with a column right, the number of texts whose most likely label is their own.
    shards : sequence of Path
        Validation shards.
    head, description : Path
        Of the model stage.
    documents : Path
        Table of the stage "document roles".
    sentences : Path
        Table of the corpus.
    weights : Path, optional
        Folder of weights that the workflow made.
    samples : int
        The most validation sentences whose loss is measured, evenly spread.
    max_tokens : int
        Longer sentences are cut.
    device : str
    batch_tokens : int
    """
    digest = one_model(shards[0], head, description)
    described = read_description(description)
    store = ActivationStore(shards)
    on = pick_device(device)
    of_samples = documents_of_samples(store, documents)
    write_table(levels, levels_of(store, Head.load(head), of_samples, on), model_digest=digest)
    columns = ["loss", "tokens"]
    if described.task == "classification" and not store.labelled:
        raise CorpusError(
            f"{sentences}: a corpus without labels given, joint-optimisation measures the loss on the labels "
            f"of {described.architecture}: name the key of its labels with label"
        )
    if described.task not in ("masked", "classification"):
        found = _of_sentences(
            described, weights, sentences, documents, samples, max_tokens, device, batch_tokens
        )
    else:
        lost = _losses_of_samples(store, Head.load(head), on)
        found = pd.DataFrame({"document": of_samples, "loss": lost[:, 0], "tokens": lost[:, 1]})
        if store.labelled:
            columns.append("right")
            found["right"] = lost[:, 2].numpy()
    by_document = found.groupby("document", as_index=False)[columns].sum()
    write_table(losses, by_document, model_digest=digest)


def _of_sentences(
    described: ModelDescription,
    weights: Path | None,
    sentences: Path,
    documents: Path,
    samples: int,
    max_tokens: int,
    device: str,
    batch_tokens: int,
) -> pd.DataFrame:
    """Losses of whole validation sentences, with columns document, loss, tokens."""
    roles = read_table(documents).set_index("sentence_id")
    table = read_table(sentences)
    table = table[table["sentence_id"].isin(roles.index[roles["role"] == VALIDATION])]
    table = table.iloc[np.unique(np.linspace(0, len(table) - 1, samples).round().astype(int))]
    of_documents = roles.loc[table["sentence_id"], "document"].to_numpy()
    transformer = load_described(described, weights, device=device)
    if described.task == "seq2seq":
        lost = losses_of_pairs(
            transformer,
            load_described_tokenizer(described, weights),
            table,
            max_tokens=max_tokens,
            batch_tokens=batch_tokens,
            prefix=(described.pairs or {}).get("prefix") or "",
        )
        return pd.DataFrame({"document": of_documents, "loss": lost[:, 0], "tokens": lost[:, 1]})

    def tokenised(plain: pd.DataFrame) -> list[list[int]]:
        tokenizer, text = load_described_tokenizer(described, weights), plain["sentence"].tolist()
        found: list[list[int]] = tokenizer(text, truncation=True, max_length=max_tokens)["input_ids"]
        return found

    sequences = tokens_of_rows(table, tokenised)
    first = (prompt_lengths(table) - 1).clip(0).tolist()
    lost = losses_of(transformer, sequences, first, batch_tokens)
    return pd.DataFrame({"document": of_documents, "loss": lost[:, 0], "tokens": lost[:, 1]})
