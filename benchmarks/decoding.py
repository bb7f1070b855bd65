"""Plain decoding on the CPU: passes over a few tokens, and tokens for each second, with packed weights.

Passes go over 1 to 16 tokens behind a prompt, with a key/value cache. The loop of plain decoding is a small
one of its own: one pass, the most likely token. Its text has to be that of `model.generate`. Both are held
against the time in which all weights are multiplied with one vector, which is the time of reading them.

`EarlyExit` without a jump decodes too, unpacked and packed.

Argument: the folder of a model.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable
from typing import Any

import torch
from measure import ROOT, at_least, at_most, ratio, seconds
from torch import Tensor

from onejump.models.loading import load_model
from onejump.models.passes import PartialPasses
from onejump.models.row_cache import Place, RowCache
from onejump.models.transformer import Transformer
from onejump.runtime.early_exit import EarlyExit
from onejump.runtime.packing import packed, packed_bytes

WIDTHS, PROMPT, NEW_TOKENS, ROUNDS = (1, 2, 4, 8, 16), 64, 24, 15


def default_model() -> str:
    found = sorted((ROOT / "resources" / "weights").glob("*/config.json"))
    if not found:
        raise SystemExit("no model: run the default study first, or name the folder of a model")
    return str(found[0].parent)


def drawn(transformer: Transformer, length: int) -> Tensor:
    return torch.randint(transformer.head.vocabulary, (1, length), generator=torch.Generator().manual_seed(0))


def reading(transformer: Transformer) -> Callable[[], None]:
    """Read the weights of the blocks and of the unembedding once, by a product with a vector."""
    parts = (*transformer.blocks, transformer.model.get_output_embeddings())
    weights = [of.data for part in parts for of in part.parameters() if of.dim() == 2]
    vectors = {weight.shape[1]: torch.randn(weight.shape[1]) for weight in weights}

    def read() -> None:
        for weight in weights:
            weight.mv(vectors[weight.shape[1]])

    return read


def decode(passes: PartialPasses, prompt: Tensor, new_tokens: int) -> list[int]:
    cache = passes.cache(columns=prompt.shape[1] + new_tokens)
    tokens, at, found = prompt, 0, []
    for _ in range(new_tokens):
        last = torch.tensor([tokens.shape[1] - 1])
        logits = passes.run(0, passes.blocks, tokens, Place(at), cache, logits_at=last)
        at += tokens.shape[1]
        tokens = logits[:, -1].argmax(-1, keepdim=True)
        found.append(int(tokens))
    return found


@torch.inference_mode()
def main(arguments: list[str]) -> None:
    logging.basicConfig(format="%(message)s")
    transformer = load_model(arguments[0] if arguments else default_model(), device="cpu", dtype="float32")
    ways = {
        "unpacked": transformer,
        "packed": packed(transformer),
        "packed, one row too": packed(transformer, unpacked_rows=0),
    }
    size = packed_bytes(ways["packed"]) / 1e6
    print(f"{torch.get_num_threads()} threads; the packed copy of the weights has {size:.0f} MB")
    prompt = drawn(transformer, PROMPT)
    passes = {name: PartialPasses(way) for name, way in ways.items()}
    compare_passes(passes, drawn(transformer, PROMPT + max(WIDTHS)), reading(transformer))
    compare_decoding(transformer, passes, prompt, reading(transformer))


def compare_passes(passes: dict[str, PartialPasses], tokens: Tensor, read: Callable[[], None]) -> None:
    caches = {name: way.cache(columns=tokens.shape[1]) for name, way in passes.items()}

    def run(name: str, start: int, end: int) -> Tensor:
        way: PartialPasses = passes[name]
        cache: RowCache = caches[name]
        return way.run(0, way.blocks, tokens[:, start:end], Place(start), cache)

    expected = {name: run(name, 0, PROMPT) for name in passes}["unpacked"]
    work: dict[str, Callable[[], object]] = {"reading": read}
    for name in passes:
        for width in WIDTHS:
            work[f"{name} {width}"] = functools.partial(run, name, PROMPT, PROMPT + width)
            moved = float(
                (run(name, PROMPT, PROMPT + width) - run("unpacked", PROMPT, PROMPT + width)).abs().max()
            )
            assert moved <= 1e-3 * float(expected.std()), f"{name}: logits moved by {moved:.2g}"
    times = seconds(work, ROUNDS)
    best = {name: 1e3 * min(of) for name, of in times.items()}
    print(f"reading all weights once: {best['reading']:.0f} ms")
    for name in passes:
        row = ", ".join(f"{best[f'{name} {width}']:.0f}" for width in WIDTHS)
        print(f"pass over {', '.join(map(str, WIDTHS))} tokens, {name}: {row} ms")
    for name in passes:
        if name != "unpacked":
            for width, bar in ((4, 1.15), (8, 1.3)):
                # The machine may be busy: the best round is what the pass itself takes.
                found = best[f"{name} {width}"] / best[f"{name} 1"]
                note = f"median of rounds {ratio(times[f'{name} {width}'], times[f'{name} 1']):.2f}"
                at_most(f"pass over {width} tokens / pass over one, {name}", found, bar, note, "x")


def compare_decoding(
    transformer: Transformer, passes: dict[str, PartialPasses], prompt: Tensor, read: Callable[[], None]
) -> None:
    texts: dict[str, list[int]] = {}

    def generate() -> None:
        how: dict[str, Any] = {"do_sample": False, "max_new_tokens": NEW_TOKENS}
        how |= {"attention_mask": torch.ones_like(prompt), "pad_token_id": 0, "eos_token_id": None}
        texts["generate"] = transformer.model.generate(prompt, **how)[0, prompt.shape[1] :].tolist()

    def own(name: str) -> None:
        texts[name] = decode(passes[name], prompt, NEW_TOKENS)

    def engine(name: str, exits: EarlyExit) -> None:
        out = exits.generate(prompt, do_sample=False, max_new_tokens=NEW_TOKENS, eos_token_id=None)
        texts[name] = out.new_tokens[0]

    engines = {
        "EarlyExit": EarlyExit(transformer, None, packed=False),
        "EarlyExit, packed": EarlyExit(transformer, None, packed=True),
    }
    work: dict[str, Callable[[], object]] = {"generate": generate, "reading": read}
    work |= {name: functools.partial(own, name) for name in passes}
    work |= {name: functools.partial(engine, name, exits) for name, exits in engines.items()}
    times = seconds(work, ROUNDS // 3)
    best = {name: 1e3 * min(of) / (1 if name == "reading" else NEW_TOKENS) for name, of in times.items()}
    for name in (*passes, *engines):
        assert texts[name] == texts["generate"], f"{name}: another text than that of model.generate"
        note = f"{best['generate']:.1f} and {best[name]:.1f} ms a token"
        note += f", {best[name] / best['reading']:.1f} times what reading the weights takes"
        at_least(f"model.generate / plain decoding, {name}", best["generate"] / best[name], 1.6, note)


if __name__ == "__main__":
    main(sys.argv[1:])
