"""Verified decoding that drafts one token at an early level, by every kept jump of generated text.

Prompts are those of the greedy validation texts of studies/generated.yaml, so that the text is of the kind
that the jumps were fitted to. Every token exits: what differs is the jump, the level, and the number of
candidates for the place. `python benchmarks/drafts.py [folder of a model and a corpus] [texts]`
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from measure import ROOT

from onejump.base.files import read_table
from onejump.exits.gates import TopProbability
from onejump.models.loading import load_model, load_tokenizer
from onejump.runtime.artefact import OneJump
from onejump.runtime.bench import PLAIN, Bench
from onejump.runtime.cost_model import Fixed, Policy

NEW_TOKENS = 64
LEVELS, WIDTHS = (0, 1, 3), (1, 4, 8)


def always(policy: Policy) -> Callable[[], Policy]:
    return lambda: policy


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
                policy = Fixed(1, width)
                bench = Bench(
                    transformer,
                    jump,
                    TopProbability({level: 0.0}),
                    padding=tokenizer.pad_token_id,
                    max_new_tokens=NEW_TOKENS,
                    methods=[PLAIN, "verified"],
                    policy=always(policy),
                )
                runs = list(bench.compare(prompts))
                plain = {run.batch: run for run in runs if run.method == PLAIN}
                verified = [run for run in runs if run.method == "verified"]
                same = sum(run.tokens == plain[run.batch].tokens for run in verified)
                rate = statistics.median(run.rate / plain[run.batch].rate for run in verified)
                records = [run.record for run in verified if run.record is not None]
                decoded, passes, drafted, accepted = (
                    sum(getattr(record, name) for record in records)
                    for name in ("decoded", "full_passes", "drafted", "accepted")
                )
                print(
                    f"{kept.name}, level {level}, {width} candidates: {decoded / passes:.2f} tokens a round, "
                    f"{accepted / drafted:.0%} of drafts kept, {rate:.2f}x plain, "
                    f"{same} of {len(verified)} texts equal",
                    flush=True,
                )


if __name__ == "__main__":
    given = sys.argv[1:]
    default = ROOT / "results" / "generated" / "smollm2-135m" / "generated"
    main(Path(given[0]) if given else default, int(given[1]) if len(given) > 1 else 12)
