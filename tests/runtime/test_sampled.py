"""Sampling with exits follows the full model's distribution."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from random_exits import always, exiting, padded, prompt, small_llama
from scipy.stats import chisquare
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from onejump.exits.gates import TopProbability
from onejump.runtime.cost_model import Fixed
from onejump.runtime.early_exit import EarlyExit
from onejump.runtime.sampling import Noise

VOCABULARY, LENGTH, DRAWN = 4, 4, 1500
PROMPT = torch.tensor([[1, 3, 2]])
ALPHA = 1e-3


@functools.cache
def model() -> Any:
    built = small_llama(vocabulary=VOCABULARY)
    with torch.no_grad():  # so that every token has a chance
        built.model.norm.weight.mul_(0.3)
    return built


def holds(counts: np.ndarray, probabilities: np.ndarray) -> bool:
    """Whether counts may come from probabilities; those that are expected less than five times are one."""
    expected = probabilities / probabilities.sum() * counts.sum()
    assert counts[expected == 0].sum() == 0
    rare = expected < 5
    observed = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    if expected[-1] == 0:
        observed, expected = observed[:-1], expected[:-1]
    return bool(chisquare(observed, expected).pvalue > ALPHA)


def exact(warpers: LogitsProcessorList, length: int = LENGTH) -> np.ndarray:
    """Probability of each text, by the full model alone: (V, V, ...) flat."""
    texts = torch.tensor(list(itertools.product(range(VOCABULARY), repeat=length)))
    with torch.inference_mode():
        logits = model()(torch.cat([PROMPT.expand(len(texts), -1), texts], 1)).logits.double()
    every = torch.ones(len(texts), dtype=torch.double)
    for place in range(length):
        processed = warpers(texts[:, :0], logits[:, PROMPT.shape[1] - 1 + place])
        every *= processed.softmax(-1)[torch.arange(len(texts)), texts[:, place]]
    return every.numpy()


@pytest.mark.parametrize(
    ("gate", "drafts", "arguments"),
    [
        (always(1), 2, {"temperature": 1.5}),
        (TopProbability({0: 0.6, 1: 0.5, 2: 0.4}), 1, {"temperature": 0.8, "top_p": 0.9}),
    ],
    ids=["all exit", "some exit"],
)
def test_texts_follow_the_full_models_distribution(gate: Any, drafts: int, arguments: dict[str, Any]) -> None:
    warpers = LogitsProcessorList([TemperatureLogitsWarper(arguments["temperature"])])
    if "top_p" in arguments:
        warpers.append(TopPLogitsWarper(arguments["top_p"]))
    exits = exiting(model(), gate=gate, policy=Fixed(drafts))
    generator = torch.Generator().manual_seed(5)
    found = exits.generate(
        PROMPT.expand(DRAWN, -1),
        max_new_tokens=LENGTH,
        do_sample=True,
        top_k=0,
        generator=generator,
        **arguments,
    )
    assert 0.1 < found.accepted / found.drafted < 0.9
    if drafts == 1:
        assert found.drafted < 2 * DRAWN
    texts = Counter(map(tuple, found.new_tokens))
    counts = np.array([texts[text] for text in itertools.product(range(VOCABULARY), repeat=LENGTH)])
    expected = exact(warpers)
    assert holds(counts, expected)
    # Each place by itself: a test of fewer cells sees smaller errors.
    shape = (VOCABULARY,) * LENGTH
    for place in range(LENGTH):
        others = tuple(axis for axis in range(LENGTH) if axis != place)
        assert holds(counts.reshape(shape).sum(others), expected.reshape(shape).sum(others))


def test_tokens_by_noise_follow_their_probabilities() -> None:
    probabilities = torch.tensor([0.0, 0.3, 0.0, 0.1, 0.6, 0.0])
    noise = Noise(torch.Generator().manual_seed(1))
    logits = probabilities.log()
    drawn = []
    for place in range(2000):
        drawn.append(int((logits + noise.at(place, logits)).argmax()))
        assert torch.equal(noise.at(place, logits), noise.at(place, logits))
        noise.forget(place)
    assert holds(np.bincount(drawn, minlength=6), probabilities.double().numpy())


def test_a_rows_draws_do_not_depend_on_its_batch() -> None:
    built = small_llama()
    prompts = [prompt(length, length) for length in (8, 3, 5)]
    exits = exiting(built, gate=TopProbability({1: 0.05}), policy=Fixed(2))
    arguments = {"do_sample": True, "temperature": 0.7, "top_k": 20, "max_new_tokens": 12}

    def generators(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    tokens, mask = padded(prompts)
    found = exits.generate(tokens, attention_mask=mask, generator=generators(0, 1, 2), **arguments)
    for row, of in enumerate(prompts):
        alone = exits.generate(of, generator=generators(row), **arguments)
        assert found.new_tokens[row] == alone.new_tokens[0]
        assert found.exit_levels[row] == alone.exit_levels[0]
    assert found.drafted > 0
    # Nor on what exits.
    plain = EarlyExit(built, None, packed=False)
    again = plain.generate(prompts[0], generator=torch.Generator().manual_seed(9), **arguments)
    same = exits.generate(prompts[0], generator=torch.Generator().manual_seed(9), **arguments)
    assert again.new_tokens == same.new_tokens
