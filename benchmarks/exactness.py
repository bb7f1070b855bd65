"""Verified greedy generation against `model.generate`, token by token: how many texts are equal.

Of the default model: sentences, chat prompts, code of this project and prompts of one token, with the jump of
the default study. Then small random models of every causal family that runs in parts, with random jumps, stop
tokens, penalties, and texts up to the last position. Gates, drafts, candidates, batches and packing are drawn
at random. A text that differs is printed, with how much the logit of the model's token is above that of the
other one in a pass over the whole text: a difference of rounding has a tiny gap.

Half precision is only reported: there, logits are often equal.

    python benchmarks/exactness.py [--model FOLDER] [--jump FOLDER] [--help]
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measure import DEFAULT, PAIR, ROOT, at_least

sys.path += [str(ROOT / "tests")]

from families import GENERATING, VOCABULARY, Family, families, generating
from random_exits import Drawn, drawn_gate, drawn_jump, padded

from onejump.base.errors import ModelError, OneJumpError
from onejump.base.files import read_table
from onejump.models.loading import load_model, load_tokenizer
from onejump.models.passes import PartialPasses
from onejump.models.transformer import Transformer
from onejump.runtime.artefact import OneJump
from onejump.runtime.early_exit import EarlyExit
from onejump.runtime.packing import packed

TOPICS = (
    *("rain", "bread", "prime numbers", "the moon", "jazz", "volcanoes", "chess", "bees", "Rome", "tea"),
    *("electric cars", "sleep", "gravity", "dragons", "the sea", "libraries", "robots", "winter", "trains"),
)
REQUESTS = ("Explain {} in one sentence.", "Write a short poem about {}.", "List three facts about {}.")
BATCH = 8


@dataclass
class Tally:
    """Texts that were compared."""

    same: int = 0
    texts: int = 0
    drafted: int = 0
    accepted: int = 0

    def add(self, other: Tally) -> None:
        self.same, self.texts = self.same + other.same, self.texts + other.texts
        self.drafted, self.accepted = self.drafted + other.drafted, self.accepted + other.accepted

    def __str__(self) -> str:
        return f"{self.same} of {self.texts} texts equal; {self.accepted} of {self.drafted} drafts kept"


def own_text(model: Any, prompt: list[int], arguments: dict[str, Any]) -> list[int]:
    """New tokens of `model.generate`."""
    tokens = torch.tensor([prompt], device=model.device)
    whole = model.generate(tokens, attention_mask=torch.ones_like(tokens), do_sample=False, **arguments)
    return list(whole[0, len(prompt) :].tolist())


@torch.inference_mode()
def difference(model: Any, prompt: list[int], found: list[int], own: list[int]) -> str:
    """Where two texts differ first, and how clearly the model prefers its own token there."""
    pairs = zip(found, own, strict=False)
    place = next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(found), len(own)))
    if place == min(len(found), len(own)):
        return f"{len(found)} tokens instead of {len(own)}"
    logits = model(torch.tensor([prompt + own[:place]], device=model.device), use_cache=False).logits[0, -1]
    gap = float(logits[own[place]] - logits[found[place]])
    return f"token {place}: {found[place]} instead of {own[place]}, whose logit is larger by {gap:.3g}"


def compare(
    exits: EarlyExit, prompts: list[list[int]], arguments: dict[str, Any], side: str, what: str
) -> Tally:
    """Generate from prompts in one batch, and compare each text with the model's own."""
    tokens, mask = padded([torch.tensor([prompt]) for prompt in prompts], side)
    model = exits.transformer.model
    found = exits.generate(tokens, attention_mask=mask, do_sample=False, **arguments)
    tally = Tally(0, len(prompts), found.drafted, found.accepted)
    for prompt, new in zip(prompts, found.new_tokens, strict=True):
        own = own_text(model, prompt, arguments)
        tally.same += new == own
        if new != own:
            asked = f"{exits.gate}, {len(prompts)} rows, {arguments}"
            print(f"DIFFERS {what}: {difference(model, prompt, new, own)}; {asked}", flush=True)
    return tally


def default_prompts(tokenizer: Any, count: int, corpus: Path) -> list[list[int]]:
    """Sentences, chat prompts, code and single tokens."""
    drawn = random.Random(0)
    table = read_table(corpus)
    sentences = table.loc[table["split"] == "validation", "sentence"].tolist()
    asked = [request.format(topic) for topic in TOPICS for request in REQUESTS]
    code = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "src").rglob("*.py"))]
    code = [text[text.index("\ndef ") + 1 :][:120] for text in code if "\ndef " in text]
    parts = {
        "sentences": [tokenizer(text)["input_ids"][:24] for text in drawn.sample(sentences, count // 2)],
        "chat": [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
            )
            for text in drawn.sample(asked, min(count // 4, len(asked)))
        ],
        "code": [tokenizer(text)["input_ids"] for text in drawn.sample(code, min(count // 5, len(code)))],
    }
    of_parts = [list(prompt) for part in parts.values() for prompt in part]
    single = [[drawn.randrange(tokenizer.vocab_size)] for _ in range(count - len(of_parts))]
    print({name: len(part) for name, part in parts.items()} | {"one token": len(single)}, flush=True)
    prompts = of_parts + single
    drawn.shuffle(prompts)
    return prompts


def default_model(options: argparse.Namespace, dtype: str, count: int, new_tokens: int) -> Tally:
    """Compare on the default model: a quarter of the prompts alone, the others in batches."""
    folder = options.model or str(next((ROOT / "resources" / "weights").glob("*/config.json")).parent)
    tokenizer, transformer = load_tokenizer(folder), load_model(folder, dtype=dtype, device="cpu")
    jump = OneJump.from_pretrained(options.jump) if options.jump else OneJump.from_study(PAIR)
    of = [transformer] if dtype == "float16" else [transformer, packed(transformer)]
    engines = [EarlyExit(one, jump, gate=None, packed=False) for one in of]
    prompts = default_prompts(tokenizer, count, options.corpus)
    levels, drawn, tally = range(1, len(transformer.blocks) * 2 // 3), random.Random(1), Tally()
    arguments = {"max_new_tokens": new_tokens, "pad_token_id": tokenizer.pad_token_id}
    alone, began, turn = count // 4, time.perf_counter(), 0
    while prompts:
        size = 1 if tally.texts < alone else BATCH
        batch, prompts = prompts[:size], prompts[size:]
        exits = engines[turn % len(engines)]
        exits.gate = drawn_gate(drawn, levels, transformer.head.vocabulary)
        exits.policy, exits.recall = Drawn(turn, exits.gate.levels), drawn.randint(0, 3)
        tally.add(compare(exits, batch, arguments, drawn.choice(["left", "right"]), f"default, {dtype}"))
        turn += 1
        if tally.texts % 10 == 0 or not prompts:
            print(f"  {dtype}: {tally}, {time.perf_counter() - began:.0f} s", flush=True)
    return tally


def drawn_arguments(drawn: random.Random, length: int) -> dict[str, Any]:
    """Arguments that change what is most likely, or end a text."""
    arguments: dict[str, Any] = {"pad_token_id": 0, "max_new_tokens": drawn.choice([1, 2, 8, 16, 24, 36])}
    if drawn.random() < 0.1:
        arguments["max_new_tokens"] = 64 - length  # the last position
    if drawn.random() < 0.5:
        stops = drawn.choice([1, 4, 12])
        arguments["eos_token_id"] = [drawn.randrange(VOCABULARY) for _ in range(stops)]
    if drawn.random() < 0.15:
        arguments["min_new_tokens"] = drawn.randint(1, 9)
    if drawn.random() < 0.2:
        arguments["repetition_penalty"] = drawn.choice([1.3, 0.8])
    if drawn.random() < 0.15:
        arguments["no_repeat_ngram_size"] = drawn.randint(1, 3)
    if drawn.random() < 0.15:
        arguments["suppress_tokens"] = [drawn.randrange(VOCABULARY) for _ in range(5)]
    return arguments


def agrees_with_itself(model: Any) -> bool:
    """Whether `model.generate` gives the same text with a cache and without."""
    prompt, arguments = [5, 9, 20, 31], {"max_new_tokens": 12, "pad_token_id": 0}
    if model.dtype != torch.float32:
        return True
    return own_text(model, prompt, arguments) == own_text(model, prompt, arguments | {"use_cache": False})


def small_model(family: Family, count: int, dtype: torch.dtype = torch.float32) -> Tally | None:
    """Compare on a small random model; None if it is refused."""
    try:
        model = generating(family).to(dtype)
    except Exception:  # transformers' own, of classes that no small model can be built of
        return None
    try:
        transformer = Transformer(model)
        PartialPasses(transformer)
    except ModelError:
        return None
    if not agrees_with_itself(model):
        print(f"{family.model}: its own text depends on whether it keeps a cache", flush=True)
        return None
    drawn, tally = random.Random(str(family)), Tally()
    blocks = len(transformer.blocks)
    engines = [
        EarlyExit(
            transformer,
            drawn_jump(drawn, blocks, transformer.hidden),
            gate=None,
            packed=number % 2 > 0 and dtype != torch.float16,
        )
        for number in range(4)
    ]
    while tally.texts < count:
        exits = drawn.choice(engines)
        lengths = [drawn.choice([1, 2, 5, 9, 15]) for _ in range(drawn.choice([1, 1, 3]))]
        prompts = [[drawn.randrange(3, VOCABULARY) for _ in range(length)] for length in lengths]
        exits.gate = drawn_gate(drawn, range(blocks), VOCABULARY)
        exits.policy = Drawn(drawn.randrange(2**31), exits.gate.levels, 6)
        exits.recall = drawn.randint(0, 3)
        arguments, side = drawn_arguments(drawn, max(lengths)), drawn.choice(["left", "right"])
        try:
            tally.add(compare(exits, prompts, arguments, side, f"{family.model}, {dtype}"))
        except OneJumpError as error:
            print(f"REFUSED {family.model}: {error}", flush=True)
            tally.add(Tally(0, len(prompts)))
    return tally


def small_models(options: argparse.Namespace) -> None:
    """Compare on small models: more prompts of the families that differ most, some of all others."""
    others, refused = Tally(), 0
    tried = 0
    for family in families():
        if family.kind != "causal" or (options.family and family.model not in options.family):
            continue
        named = family.model in GENERATING
        tally = small_model(family, options.of_family if named else options.of_family // 5)
        if tally is None:
            refused += 1
        elif named:
            at_least(
                f"texts equal, {family.model} ({family.configuration})",
                100 * tally.same / tally.texts,
                100,
                str(tally),
                "%",
            )
        else:
            tried += 1
            others.add(tally)
    if others.texts:
        what = f"texts equal, {tried} other families"
        at_least(what, 100 * others.same / others.texts, 100, f"{others}; {refused} others are refused", "%")
    for dtype in (torch.bfloat16, torch.float16):
        tally = Tally()
        for family in families():
            if family.kind == "causal" and family.model in (options.family or GENERATING):
                tally.add(small_model(family, options.of_family // 5, dtype) or Tally())
        print(f"small models in {dtype}: {tally}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Verified greedy generation against model.generate.")
    parser.add_argument("--model", help="folder of the default model (default: that of the default study)")
    parser.add_argument("--jump", help="folder of a kept jump of it (default: that of the default study)")
    parser.add_argument("--corpus", type=Path, default=DEFAULT / "corpora" / "wikipedia-en.parquet")
    parser.add_argument("--prompts", type=int, default=200, help="of the default model; 0: none")
    parser.add_argument("--half", type=int, default=8, help="prompts in half precision; 0: none")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--of-family", type=int, default=50, help="prompts of a small model; 0: none")
    parser.add_argument("--family", nargs="*", help="only these small models")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if options.prompts:
        tally = default_model(options, "float32", options.prompts, options.new_tokens)
        at_least("texts equal, default model", 100 * tally.same / tally.texts, 100, str(tally), "%")
    for dtype in ("bfloat16", "float16") if options.half else ():
        tally = default_model(options, dtype, options.half, options.new_tokens // 2)
        print(f"default model in {dtype}: {tally}", flush=True)
    if options.of_family:
        small_models(options)


if __name__ == "__main__":
    main()
