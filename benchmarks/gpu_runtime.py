"""What benchmarks/gpu.py compares besides the stages: generation, other tasks, the lens and tuning."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import at_least, at_most
from torch import Tensor

from onejump.data.store import ActivationStore
from onejump.exits.gates import Gate
from onejump.exits.learned_gate import Learned
from onejump.experiments.copied_states import Text, said_on_copies
from onejump.fitting.joint_losses import Weights
from onejump.fitting.joint_trainer import JointLoss, train
from onejump.fitting.tuning_batches import Batches
from onejump.lens.trajectory import Trajectory
from onejump.models.activations import extract
from onejump.models.live_head import LiveHead
from onejump.models.prompts import Prompt
from onejump.models.transformer import Transformer
from onejump.runtime.cost_model import Fixed
from onejump.runtime.early_exit import EarlyExit
from onejump.runtime.record import Generated
from onejump.shortcuts.kinds.n_njtc import NNJTC
from onejump.shortcuts.shortcut import Shortcut

# Largest difference of two devices' results in float32, in units of the results' own size (training repeats
# rounding from step to step), and the smallest share of choices that are the same: two tokens can be almost
# equally likely.
SAME, SAME_TRAINED, SAME_CHOICES = 1e-3, 1e-2, 90
NEW_TOKENS, TUNING_STEPS = 16, 4
_SMALL = {"hidden": 64, "heads": 4, "blocks": 3, "feed_forward": 128, "vocabulary": 512}
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def difference(ours: Tensor, reference: Tensor) -> float:
    """Largest difference, in units of the reference's own root mean square."""
    reference = reference.double().cpu()
    return float((ours.double().cpu() - reference).abs().max() / reference.square().mean().sqrt())


def compare_stores(what: str, store: ActivationStore, reference: ActivationStore) -> None:
    """Hold the states of a store against those of another one, level by level."""
    off = max(
        difference(torch.from_numpy(store.level(level)), torch.from_numpy(reference.level(level)))
        for level in range(reference.levels)
    )
    # The store keeps 10 mantissa bits: two numbers at the edge of a bit end up one bit apart.
    at_most(f"{what}, device against CPU", off, 2**-10 * 30)


def compare_runtime(model: Any, device: torch.device, folder: Path) -> None:
    """Hold what users do with a causal model on a device against the same on the CPU, in float32."""
    on_cpu, on_device = Transformer(model), Transformer(copy.deepcopy(model).to(device))
    for name, made in _generated(on_cpu):
        of_device = dict(_generated(on_device))[name]
        at_least(f"{name}, device against CPU", _same_tokens(of_device, made), SAME_CHOICES, unit="%")
    compare_sampling(on_device, device)
    compare_copies(on_cpu, on_device)
    compare_lens(on_cpu, on_device)
    compare_tuning(model, device, folder)


def jump_for(transformer: Transformer, rank: int = 4) -> Shortcut:
    """A random low-rank jump on the transformer's device."""
    drawn = torch.Generator().manual_seed(1)
    hidden = transformer.hidden
    down, up = torch.randn(hidden, rank, generator=drawn), torch.randn(rank, hidden, generator=drawn)
    ones, zeros = torch.ones(hidden), torch.zeros(hidden)
    return NNJTC(down, up, ones, zeros, zeros, ones).to(transformer.device)


def prompts_for(transformer: Transformer, rows: int = 3, length: int = 12) -> tuple[Tensor, Tensor]:
    """Random prompts of different lengths, and their attention mask."""
    drawn = torch.Generator().manual_seed(2)
    tokens = torch.randint(3, transformer.head.vocabulary, (rows, length), generator=drawn)
    mask = torch.ones_like(tokens)
    for row in range(rows):
        tokens[row, : 2 * row], mask[row, : 2 * row] = 0, 0
    return tokens.to(transformer.device), mask.to(transformer.device)


class EvenToken:
    """A gate that lets those tokens exit whose predicted token has an even number."""

    def __init__(self, levels: Sequence[int]) -> None:
        self.levels = tuple(levels)

    def exits(self, level: int, logits: Tensor, earlier: Tensor) -> Tensor:
        return logits.argmax(-1) % 2 == 0

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "even token", "levels": list(self.levels)}


def gates_for(transformer: Transformer) -> dict[str, Gate]:
    """A gate on logits, and one on coordinates too, each of which about half of the tokens pass."""
    blocks = len(transformer.blocks)
    levels = sorted({0, blocks // 3, 2 * blocks // 3})
    weights = dict.fromkeys(levels, (0.1, 0.01, 0.3, -0.2, 0.4, -0.3))
    return {"even token": EvenToken(levels), "learned": Learned(dict.fromkeys(levels, 0.5), weights)}


def _generated(transformer: Transformer) -> Iterator[tuple[str, Generated]]:
    tokens, mask = prompts_for(transformer)
    jump = jump_for(transformer)
    for gate_name, gate in gates_for(transformer).items():
        for mode, width in (("verified", 3), ("trusted", 1), ("copied", 1)):
            exits = EarlyExit(transformer, jump, gate=gate, mode=mode, policy=Fixed(3, width), packed=False)
            made = exits.generate(tokens, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False)
            if not made.drafted:
                raise SystemExit(
                    f"generation, {mode}, gate {gate_name}: no token exits, so nothing is compared"
                )
            yield f"generation, {mode}, gate {gate_name}, width {width}", made


def _same_tokens(made: Generated, reference: Generated) -> float:
    """The share of new tokens that come before a row's first difference, in percent."""
    same = [
        int(np.cumprod(np.equal(ours[: len(own)], own[: len(ours)])).sum())
        for ours, own in zip(made.new_tokens, reference.new_tokens, strict=True)
    ]
    return 100 * sum(same) / sum(map(len, reference.new_tokens))


def compare_sampling(transformer: Transformer, device: torch.device) -> None:
    """Hold sampled texts with exits against those of the loop without: they are the same for one seed."""
    tokens, mask = prompts_for(transformer)
    gate = gates_for(transformer)["even token"]
    made = [
        exits.generate(
            tokens,
            attention_mask=mask,
            max_new_tokens=NEW_TOKENS,
            do_sample=True,
            top_k=0,
            temperature=0.8,
            generator=torch.Generator(device).manual_seed(3),
        )
        for exits in (
            EarlyExit(transformer, None, packed=False),
            EarlyExit(transformer, jump_for(transformer), gate=gate, policy=Fixed(3), packed=False),
        )
    ]
    at_least("sampled texts, verified against plain", _same_tokens(made[1], made[0]), SAME_CHOICES, unit="%")


def compare_copies(on_cpu: Transformer, on_device: Transformer) -> None:
    """Hold what the model says on copied keys and values against the CPU's."""
    drawn = np.random.default_rng(4)
    blocks, vocabulary = len(on_cpu.blocks), on_cpu.head.vocabulary
    texts = [
        Text(
            drawn.integers(3, vocabulary, prompt + NEW_TOKENS).tolist(),
            prompt,
            [blocks, *drawn.integers(1, blocks + 1, NEW_TOKENS - 1).tolist()],
        )
        for prompt in (5, 9)
    ]
    said = [
        np.concatenate(said_on_copies(EarlyExit(transformer, None, packed=False).passes, texts))
        for transformer in (on_cpu, on_device)
    ]
    share = 100 * float((said[0] == said[1]).mean())
    at_least("reading on copied keys and values, device against CPU", share, SAME_CHOICES, unit="%")


def word_tokenizer(vocabulary: int) -> Any:
    """A tokenizer of words w0, w1, ..."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(vocabulary)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0", pad_token="w0")


def compare_lens(on_cpu: Transformer, on_device: Transformer) -> None:
    """Hold every statistic of a trajectory against the CPU's."""
    tokenizer = word_tokenizer(on_cpu.head.vocabulary)
    gate = gates_for(on_cpu)["even token"]
    made = [
        Trajectory.from_prompt(
            transformer,
            tokenizer,
            "w5 w8 w13 w21 w34",
            {"identity": "identity", "jump": jump_for(transformer)},
            gate={"jump": gate},
        )
        for transformer in (on_cpu, on_device)
    ]
    for name in ("probability", "entropy", "surprisal", "forward_kl"):
        of_cpu, of_device = (torch.from_numpy(of.statistic(name, "jump")[:, :-1]) for of in made)
        at_most(f"lens, {name}, device against CPU", difference(of_device, of_cpu), SAME)


def compare_tuning(model: Any, device: torch.device, folder: Path) -> None:
    """Hold a few steps of joint optimisation against the same on the CPU: final loss of both."""
    drawn = np.random.default_rng(5)
    vocabulary = int(model.config.vocab_size)
    sentences = [drawn.integers(3, vocabulary, 20).tolist() for _ in range(24)]
    losses: list[float] = []
    for on in (torch.device("cpu"), device):
        tuned = copy.deepcopy(model).to(on)
        transformer = Transformer(tuned)
        batches = Batches(
            sentences,
            Weights("uniform", len(transformer.blocks), None),
            steps=TUNING_STEPS,
            batch_tokens=128,
            each=1,
            seed=0,
            padding=0,
        )
        loss = JointLoss(transformer, LiveHead(transformer))
        tuned.requires_grad_()
        checkpoints = folder / f"tuning-{len(losses)}"
        train(tuned, loss, batches, checkpoints, learning_rate=1e-3, seed=0, device=on)
        with torch.no_grad():
            seen = torch.tensor(sentences, device=on)
            losses.append(float(tuned(seen, labels=seen).loss))
    off = abs(losses[1] - losses[0]) / losses[0]
    at_most("joint optimisation, loss, device against CPU", off, SAME_TRAINED)


def encoder_decoder() -> Any:
    """A small Marian model with random weights."""
    from transformers import MarianConfig, MarianMTModel

    torch.manual_seed(0)
    sizes = {
        f"{side}_{name}": _SMALL[size]
        for side in ("encoder", "decoder")
        for name, size in (("layers", "blocks"), ("attention_heads", "heads"), ("ffn_dim", "feed_forward"))
    }
    return MarianMTModel(
        MarianConfig(
            vocab_size=_SMALL["vocabulary"],
            d_model=_SMALL["hidden"],
            max_position_embeddings=64,
            decoder_start_token_id=0,
            forced_eos_token_id=None,
            init_std=0.3,
            **sizes,
            **_SPECIAL,
        )
    ).eval()


def classifier() -> Any:
    """A small BERT that classifies, with random weights."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=_SMALL["vocabulary"],
            hidden_size=_SMALL["hidden"],
            num_hidden_layers=_SMALL["blocks"],
            num_attention_heads=_SMALL["heads"],
            intermediate_size=_SMALL["feed_forward"],
            num_labels=5,
            pad_token_id=0,
        )
    ).eval()


def compare_tasks(device: torch.device, folder: Path) -> None:
    """Hold encoder-decoders and classifiers against the CPU: their states, and texts with exits."""
    drawn = np.random.default_rng(6)

    def tokens(count: int) -> list[int]:
        found: list[int] = drawn.integers(3, _SMALL["vocabulary"], count).tolist()
        return found

    pairs = [Prompt(i, tokens(9), np.arange(9), source=tokens(12)) for i in range(40)]
    texts = [Prompt(i, tokens(12), np.array([0]), label=i % 5) for i in range(40)]
    for name, model, prompts in (
        ("an encoder-decoder", encoder_decoder(), pairs),
        ("a classifier", classifier(), texts),
    ):
        stores = []
        for place, on in (("cpu", torch.device("cpu")), ("device", device)):
            path = folder / f"{name.split()[-1]}-{place}.zarr"
            extract(Transformer(copy.deepcopy(model).to(on)), prompts, path, top_k=5)
            stores.append(ActivationStore([path]))
        compare_stores(f"extraction of {name}", stores[1], stores[0])

    transformer = Transformer(encoder_decoder().to(device))
    source, mask = prompts_for(transformer)
    own = transformer.model.generate(
        source, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False, num_beams=1
    )
    gate = gates_for(transformer)["even token"]
    exits = EarlyExit(transformer, jump_for(transformer), gate=gate, policy=Fixed(3), packed=False)
    made = exits.generate(source, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False)
    expected = own[:, 1:]  # behind the decoder's start token
    same = [row.tolist()[: len(new)] == new for row, new in zip(expected, made.new_tokens, strict=True)]
    at_least("verified translations that are the model's own", 100 * sum(same) / len(same), 100, unit="%")
