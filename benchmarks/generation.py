"""Generation on the default model: the loop without exits, and verified decoding with the default jump.

Every way decodes a prompt before the next one comes (`onejump.runtime.bench`); the ratios are medians over
the prompts. The gates check early levels only: there a draft costs little, and one that is kept saves a pass.
"""

from __future__ import annotations

from typing import Any

from measure import PAIR, ROOT, always, at_least, at_most, rates

from onejump.exits.gates import Gate, TopProbability
from onejump.models.loading import load_model, load_tokenizer
from onejump.runtime.artefact import OneJump
from onejump.runtime.bench import LOOKUP, PLAIN, PROMPTS, REFERENCE, Bench
from onejump.runtime.cost_model import Fixed, Policy

NEW_TOKENS = 64
WAYS: dict[str, tuple[Gate, Policy | None]] = {
    "the cost model, levels 2 to 8": (TopProbability({2: 0.5, 4: 0.5, 8: 0.5}), None),
    "the cost model, every token exits at level 3": (TopProbability({3: 0.0}), None),
    "chains of one draft, level 3": (TopProbability({3: 0.3}), Fixed(1)),
    "4 candidates at level 3": (TopProbability({3: 0.0}), Fixed(1, 4)),
    "8 candidates at level 1": (TopProbability({1: 0.0}), Fixed(1, 8)),
}


def main() -> None:
    folder = str(next(iter(sorted((ROOT / "resources" / "weights").glob("*/config.json")))).parent)
    tokenizer, transformer = load_tokenizer(folder), load_model(folder)
    jump = OneJump.from_study(PAIR)
    prompts: list[Any] = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=False
        )
        for prompt in PROMPTS
    ]
    for name, (gate, policy) in WAYS.items():
        bench = Bench(
            transformer,
            jump,
            gate,
            padding=tokenizer.pad_token_id,
            max_new_tokens=NEW_TOKENS,
            methods=[PLAIN, "verified", LOOKUP],
            policy=always(policy),
        )
        runs = list(bench.compare(prompts))
        expected = {run.batch: run.tokens for run in runs if run.method == REFERENCE}
        same = sum(run.tokens == expected[run.batch] for run in runs if run.method == "verified")
        at_least(f"texts that are the model's own, {name}", 100 * same / len(prompts), 100, unit="%")
        records = [run.record for run in runs if run.method == "verified" and run.record is not None]
        drafted, accepted = (sum(getattr(of, kind) for of in records) for kind in ("drafted", "accepted"))
        decoded, passes = (sum(getattr(of, kind) for of in records) for kind in ("decoded", "full_passes"))
        note = f"{accepted} of {drafted} drafts kept, {decoded / max(passes, 1):.2f} tokens a round"
        at_least(f"verified / plain, {name}", rates(runs, "verified", PLAIN), 1.1, note)
        at_least(f"verified / model.generate, {name}", rates(runs, "verified", REFERENCE), 1.8)
        at_most("model.generate / plain", 1 / rates(runs, PLAIN, REFERENCE), 1 / 1.6)
        print(f"prompt lookup / model.generate: {rates(runs, LOOKUP, REFERENCE):.3g}x", flush=True)


if __name__ == "__main__":
    main()
