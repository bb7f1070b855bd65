"""The hash of the unembedding: the same in every precision that the same weights are loaded in."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from onejump.runtime.jump_config import Precision
from onejump.runtime.weight_hash import different_weights, weight_hashes

DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def weights(vocabulary: int = 3000, hidden: int = 24) -> Tensor:
    return 0.1 * torch.randn(vocabulary, hidden, generator=torch.Generator().manual_seed(3))


def loaded(saved: Tensor, dtype: Precision) -> Tensor:
    """What a head holds of weights that were loaded in a precision."""
    return saved.to(DTYPES[dtype]).float()


@pytest.mark.parametrize(("saved", "studied", "used"), itertools.product(DTYPES, DTYPES, DTYPES))
def test_the_same_weights_are_the_same_however_they_are_saved_and_loaded(
    saved: Precision, studied: Precision, used: Precision
) -> None:
    file = loaded(weights(), saved)
    hashes = weight_hashes(loaded(file, studied), studied)
    assert different_weights(loaded(file, used), hashes) is None


@pytest.mark.parametrize(("studied", "used"), itertools.product(DTYPES, DTYPES))
def test_weights_that_were_trained_further_differ(studied: Precision, used: Precision) -> None:
    if {studied, used} == {"bfloat16", "float16"}:
        return  # of weights saved in float32 the two cannot be compared
    file = weights()
    hashes = weight_hashes(loaded(file, studied), studied)
    trained = file + 1e-3 * torch.randn(file.shape, generator=torch.Generator().manual_seed(4))
    assert different_weights(loaded(trained, used), hashes) is not None


def test_rounding_twice_is_not_rounding_once() -> None:
    """The reason why a jump keeps a hash for each precision."""
    file = weights()
    once, twice = file.bfloat16(), file.half().bfloat16()
    assert 0.01 < float((once != twice).float().mean()) < 0.2


def test_a_change_of_the_last_bit_differs_and_so_do_other_shapes() -> None:
    file = weights()
    hashes = weight_hashes(file, "float32")
    changed = file.clone()
    changed[0, 0] = torch.nextafter(changed[0, 0], torch.tensor(9.0))
    found = different_weights(changed, hashes)
    assert found is not None
    assert found[0] == f"float32:{hashes['float32']}"
    assert found[1] != found[0]
    assert weight_hashes(file.view(-1, 12), "float32") != hashes


@pytest.mark.parametrize("vocabulary", [1, 1023, 1024, 1025, 5000])
def test_rows_are_spread_over_any_vocabulary(vocabulary: int) -> None:
    file = torch.arange(2.0 * vocabulary).view(vocabulary, 2)
    hashes = weight_hashes(file, "float32")
    assert different_weights(file, hashes) is None
    assert different_weights(file + 1, hashes) is not None
