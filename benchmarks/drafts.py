"""Verified decoding that drafts one token at an early level, by every kept jump of generated text.

Prompts are those of the greedy validation texts of studies/generated.yaml, so that the text is of the kind
that the jumps were fitted to. Every token exits: what differs is the jump, the level, and the number of
candidates for the place, and whether the text gives drafts too.

    python benchmarks/drafts.py [folder of a model and a corpus] [texts]
"""

from __future__ import annotations

import sys
from pathlib import Path

from measure import ROOT, always, rates

from onejump.base.files import read_table
from onejump.exits.gates import TopProbability
from onejump.models.loading import load_model, load_tokenizer
from onejump.models.transformer import Transformer
from onejump.runtime.artefact import OneJump
from onejump.runtime.bench import PLAIN, RECALL, REFERENCE, VERIFIED_RECALL, Bench
from onejump.runtime.cost_model import Fixed, Policy

NEW_TOKENS = 64
LEVELS, WIDTHS = (0, 1, 3), (1, 4, 8)
SURE, RECALLED = 0.1, (2, 4)


def main(pair: Path, texts: int) -> None:
    folder = str(next(iter(sorted((ROOT / "resources" / "weights").glob("*/config.json")))).parent)
    tokenizer, transformer = load_tokenizer(folder), load_model(folder)
    table = read_table(pair / "corpus.parquet")
    table = table[(table["split"] == "validation") & table["greedy"]].head(texts)
    prompts = [
        tokens[:count].tolist() for tokens, count in zip(table["tokens"], table["prompt_tokens"], strict=True)
    ]
    for kept in sorted((pair / "export").iterdir()):
        jump = OneJump.from_pretrained(kept)
        for level in LEVELS:
            for width in WIDTHS:
                ready = bench_of(transformer, jump, {level: 0.0}, Fixed(1, width), tokenizer.pad_token_id)
                say(f"{kept.name}, level {level}, {width} candidates", ready, prompts)
        gate, at = {LEVELS[0]: SURE}, f"{kept.name}, level {LEVELS[0]} where p is at least {SURE}"
        for recalled in RECALLED:
            policy = Fixed(1, recalled=recalled)
            ready = bench_of(transformer, jump, gate, policy, tokenizer.pad_token_id, VERIFIED_RECALL)
            say(f"{at}, up to {recalled} recalled drafts", ready, prompts)
        for name, method in (("recalled alone", RECALL), (f"{at}, and recalled", VERIFIED_RECALL)):
            ready = bench_of(transformer, jump, gate, None, tokenizer.pad_token_id, method)
            say(f"{name}, the cost model", ready, prompts)


def bench_of(
    transformer: Transformer,
    jump: OneJump,
    thresholds: dict[int, float],
    policy: Policy | None,
    padding: int,
    method: str = "verified",
) -> Bench:
    return Bench(
        transformer,
        jump,
        TopProbability(thresholds),
        padding=padding,
        max_new_tokens=NEW_TOKENS,
        methods=[PLAIN, method],
        policy=always(policy),
    )


def say(what: str, bench: Bench, prompts: list[list[int]]) -> None:
    """Print what one way of drafting gives."""
    runs = list(bench.compare(prompts))
    plain = {run.batch: run for run in runs if run.method == PLAIN}
    drafting = [run for run in runs if run.method not in (PLAIN, REFERENCE)]
    same = sum(run.tokens == plain[run.batch].tokens for run in drafting)
    rate = rates(runs, drafting[0].method, PLAIN)
    records = [run.record for run in drafting if run.record is not None]
    decoded, passes, drafted, accepted = (
        sum(getattr(record, name) for record in records)
        for name in ("decoded", "full_passes", "drafted", "accepted")
    )
    print(
        f"{what}: {decoded / max(passes, 1):.2f} tokens a round, {accepted / max(drafted, 1):.0%} of drafts "
        f"kept, {rate:.2f}x plain, {same} of {len(drafting)} texts equal",
        flush=True,
    )


if __name__ == "__main__":
    given = sys.argv[1:]
    default = ROOT / "results" / "generated" / "smollm2-135m" / "generated"
    main(Path(given[0]) if given else default, int(given[1]) if len(given) > 1 else 12)
