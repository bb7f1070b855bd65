"""The store gives back what it got, or says which shard is broken."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import BitRound

from onejump.base.errors import CorruptStoreError, OneJumpError
from onejump.data.shard_layout import SAMPLE_ARRAYS, storable
from onejump.data.shard_writer import ShardWriter, StoreOptions
from onejump.data.store import ActivationStore

MakeStore = Callable[..., ActivationStore]
Data = Callable[..., np.ndarray]


def read_everything(paths: list[Path]) -> None:
    store = ActivationStore(paths)
    for level in range(store.levels):
        store.level(level)
    for name in SAMPLE_ARRAYS:
        store.of_samples(name)


def chunk_files(shard: Path, array: str) -> list[Path]:
    files = sorted(path for path in (shard / array / "c").rglob("*") if path.is_file())
    assert files
    return files


@pytest.mark.parametrize("sizes", [[100], [60, 1, 39]])
@pytest.mark.parametrize("compressor", ["zstd", "lz4", "none"])
@pytest.mark.parametrize(
    ("dtype", "keepbits", "bound"),
    [("float32", None, 0), ("float32", 10, 2**-11), ("float32", 4, 2**-5), ("float16", None, 2**-11)],
)
def test_round_trip(
    dtype: str,
    keepbits: int | None,
    bound: float,
    compressor: str,
    sizes: list[int],
    make_store: MakeStore,
    levels_of_data: Data,
) -> None:
    states = 10 * levels_of_data(3, 100, 6)
    store = make_store(
        states, sizes=sizes, dtype=dtype, keepbits=keepbits, compressor=compressor, chunk_samples=32
    )
    assert (store.levels, store.samples, store.hidden, store.shard_samples) == (3, 100, 6, sizes)
    for level in range(3):
        found = store.level(level)
        assert found.dtype == np.float32
        error = np.abs(found.astype(np.float64) - states[level])
        assert (
            error <= bound * np.abs(states[level]) * (1 + 1e-6) + (1e-7 if dtype == "float16" else 0)
        ).all()
        if keepbits == 4:
            assert error.max() > 0  # it does round
    parts = list(store.blocks([2, 0]))
    np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), store.level(2))
    np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), store.level(0))
    assert max(len(part[0]) for part in parts) <= 32
    for index, size in enumerate(sizes):
        start = sum(sizes[:index])
        whole = np.stack([store.level(level)[start : start + size] for level in range(3)])
        np.testing.assert_array_equal(store.shard(index), whole)
    np.testing.assert_array_equal(store.of_samples("sentence"), np.arange(100))
    assert store.of_samples("top_tokens").shape == (100, 5)
    for name, dtype_of_name in SAMPLE_ARRAYS.items():
        assert store.of_samples(name).dtype == dtype_of_name


def test_bit_round_is_numcodecs_own(make_store: MakeStore, levels_of_data: Data) -> None:
    states = levels_of_data(2, 50, 6)
    rounded = BitRound(keepbits=7)
    expected = rounded.decode(rounded.encode(states[1].copy())).reshape(50, 6)
    np.testing.assert_array_equal(make_store(states, keepbits=7).level(1), expected)


def test_huge_and_tiny_values_pass_the_default_store(make_store: MakeStore) -> None:
    values = np.array([1e5, -3e5, 1e30, 1e-30, 0.1, -7e3, 65504, 65505], dtype=np.float32)
    states = np.broadcast_to(values, (2, 5, 8))
    found = make_store(states, keepbits=10).level(0)
    assert (np.abs(found / values - 1) < 1e-3).all()


@settings(max_examples=30)
@given(rows=st.lists(st.integers(1, 40), min_size=1, max_size=6), chunk=st.integers(1, 50))
def test_however_rows_are_appended(
    rows: list[int], chunk: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    states = np.random.default_rng(0).normal(size=(2, sum(rows), 3)).astype(np.float32)
    path = tmp_path_factory.mktemp("store") / "shard.zarr"
    with ShardWriter(
        path,
        levels=2,
        samples=sum(rows),
        hidden=3,
        top_k=1,
        options=StoreOptions(keepbits=None, chunk_samples=chunk),
    ) as writer:
        start = 0
        for n in rows:
            one, wide = np.arange(start, start + n), np.zeros((n, 1))
            writer.append(
                states[:, start : start + n],
                sentence=one,
                position=one,
                token=one,
                top_tokens=wide,
                top_logits=wide,
                logsumexp=one,
            )
            start += n
    store = ActivationStore([path])
    np.testing.assert_array_equal(store.level(0), states[0])
    np.testing.assert_array_equal(store.level(1), states[1])
    np.testing.assert_array_equal(store.of_samples("token"), np.arange(sum(rows)))


@pytest.mark.parametrize("compressor", ["zstd", "lz4", "none"])
@pytest.mark.parametrize("array", ["activations", *SAMPLE_ARRAYS])
def test_one_flipped_byte_is_found(
    array: str, compressor: str, make_store: MakeStore, levels_of_data: Data
) -> None:
    store = make_store(
        levels_of_data(2, 40, 4), sizes=[20, 20], chunk_samples=10, keepbits=10, compressor=compressor
    )
    broken = store.paths[1]
    generator = np.random.default_rng(0)
    for file in chunk_files(broken, array):
        content = file.read_bytes()
        offsets = {
            0,
            5,
            len(content) // 2,
            len(content) - 1,
            *generator.integers(0, len(content), 4).tolist(),
        }
        for offset in offsets:
            flipped = bytearray(content)
            flipped[offset] ^= 1 << int(generator.integers(8))
            file.write_bytes(flipped)
            with pytest.raises(CorruptStoreError, match=r"1\.zarr.*delete this shard") as caught:
                read_everything(store.paths)
            assert str(broken) in str(caught.value)
            assert "0.zarr" not in str(caught.value)
        file.write_bytes(content)
    read_everything(store.paths)


@pytest.mark.parametrize("array", ["activations", *SAMPLE_ARRAYS])
def test_a_lost_or_cut_chunk_is_found(array: str, make_store: MakeStore, levels_of_data: Data) -> None:
    store = make_store(levels_of_data(2, 40, 4), sizes=[20, 20], chunk_samples=16)
    for file in chunk_files(store.paths[1], array):
        content = file.read_bytes()
        for remains in (content[:-3], content[:2], b""):
            file.write_bytes(remains)
            with pytest.raises(CorruptStoreError, match=r"1\.zarr"):
                read_everything(store.paths)
        file.unlink()
        with pytest.raises(CorruptStoreError, match=r"1\.zarr"):
            read_everything(store.paths)
        file.write_bytes(content)
    read_everything(store.paths)


def test_shards_that_are_none(make_store: MakeStore, levels_of_data: Data, tmp_path: Path) -> None:
    store = make_store(levels_of_data(2, 20, 4), sizes=[10, 10])
    with pytest.raises(CorruptStoreError, match="no activation shards"):
        ActivationStore([])
    with pytest.raises(CorruptStoreError, match=r"gone\.zarr"):
        ActivationStore([*store.paths, tmp_path / "gone.zarr"])
    (tmp_path / "file.zarr").write_text("no folder")
    with pytest.raises(CorruptStoreError, match=r"file\.zarr"):
        ActivationStore([tmp_path / "file.zarr"])
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(CorruptStoreError, match=r"empty\.zarr"):
        ActivationStore([tmp_path / "empty.zarr"])
    shutil.rmtree(store.paths[1] / "activations")
    with pytest.raises(CorruptStoreError, match=r"1\.zarr"):
        ActivationStore(store.paths)


@pytest.mark.parametrize("meta", ["zarr.json", "activations/zarr.json", "token/zarr.json"])
def test_a_broken_description_is_found(meta: str, make_store: MakeStore, levels_of_data: Data) -> None:
    store = make_store(levels_of_data(2, 20, 4), sizes=[10, 10])
    (store.paths[1] / meta).write_text("{")
    with pytest.raises(CorruptStoreError, match=r"1\.zarr"):
        read_everything(store.paths)


@pytest.mark.parametrize("other", [(3, 10, 4), (2, 10, 5)])
def test_shards_of_two_models_do_not_mix(
    other: tuple[int, int, int], make_store: MakeStore, levels_of_data: Data
) -> None:
    one, two = make_store(levels_of_data(2, 10, 4)), make_store(levels_of_data(*other))
    with pytest.raises(CorruptStoreError, match="shards of one model were expected"):
        ActivationStore([*one.paths, *two.paths])


@pytest.mark.parametrize("rows", [3, 7])
def test_a_wrong_number_of_rows_is_an_error(rows: int, tmp_path: Path) -> None:
    one, wide = np.zeros(rows), np.zeros((rows, 1))
    with (
        pytest.raises(ValueError),
        ShardWriter(
            tmp_path / "s.zarr", levels=2, samples=5, hidden=3, top_k=1, options=StoreOptions(chunk_samples=2)
        ) as writer,
    ):
        writer.append(
            np.zeros((2, rows, 3)),
            sentence=one,
            position=one,
            token=one,
            top_tokens=wide,
            top_logits=wide,
            logsumexp=one,
        )


def test_some_rows_at_some_levels(
    make_store: Callable[..., ActivationStore], levels_of_data: Callable[..., np.ndarray]
) -> None:
    states = levels_of_data(4, 150, 6)
    store = make_store(states, sizes=[90, 60], chunk_samples=32)
    rows = np.array([0, 31, 32, 89, 90, 149])
    for found, level in zip(store.rows(rows, [3, 1]), (3, 1), strict=True):
        np.testing.assert_array_equal(found, states[level, rows])
    np.testing.assert_array_equal(store.shard(1, [2, 0]), states[[2, 0], 90:])


def test_blocks_of_some_samples_are_those_of_all_without_the_others(
    make_store: MakeStore, levels_of_data: Data
) -> None:
    store = make_store(levels_of_data(3, 150, 4), sizes=[70, 80], chunk_samples=32)
    kept = np.random.default_rng(0).random(150) < 0.3
    kept[:40] = False  # of the first chunk, none
    found = [np.concatenate(of_level) for of_level in zip(*store.blocks([2, 0], kept), strict=True)]
    for level, states in zip([2, 0], found, strict=True):
        np.testing.assert_array_equal(states, store.level(level)[kept])


@pytest.mark.parametrize("some", [False, True])
def test_parts_are_small_and_say_where_they_belong(
    some: bool, make_store: MakeStore, levels_of_data: Data
) -> None:
    states = levels_of_data(3, 150, 4)
    store = make_store(states, sizes=[70, 80], chunk_samples=32)
    kept = np.arange(150) % 3 > 0 if some else np.ones(150, dtype=bool)
    found = np.full((kept.sum(), 4), np.nan, np.float32)
    for part, of_part in store.parts(2, 7, kept if some else None):
        assert len(of_part) <= 7
        assert np.isnan(found[part]).all()
        found[part] = of_part
    np.testing.assert_array_equal(found, states[2, kept])


@pytest.mark.parametrize(
    ("dtype", "keepbits", "largest"),
    [("float16", 4, 63488), ("float16", 10, 65504), ("float16", None, 65504)],
)
def test_what_can_be_stored_is_stored_as_a_finite_number(
    dtype: str, keepbits: int | None, largest: float, make_store: MakeStore
) -> None:
    assert storable(dtype, keepbits).largest == largest
    states = np.full((1, 4, 3), largest) * np.array([1, -1, 1])
    np.testing.assert_array_equal(make_store(states, dtype=dtype, keepbits=keepbits).level(0), states[0])


@pytest.mark.parametrize("keepbits", [1, 4, 9, 22])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_largest_that_can_be_stored_is_the_last_that_bit_round_leaves_as_it_is(
    dtype: str, keepbits: int
) -> None:
    if keepbits > np.finfo(dtype).nmant:
        return
    rounded = BitRound(keepbits=keepbits)
    largest = np.array([storable(dtype, keepbits).largest], dtype)

    def stored(value: np.ndarray) -> float:
        return float(rounded.decode(rounded.encode(value.copy()))[0])

    assert stored(largest) == largest[0]
    every = np.array([np.finfo(dtype).max], dtype)
    assert stored(every) == np.inf


def test_values_that_are_not_finite_are_refused(make_store: MakeStore, levels_of_data: Data) -> None:
    states = levels_of_data(2, 20, 4)
    states[1, 7, 2] = np.inf
    store = make_store(states)
    store.level(0)
    with pytest.raises(
        CorruptStoreError, match=r"0\.zarr: samples 0 to 19 of level 1 are lost or not finite"
    ):
        store.level(1)


@pytest.mark.parametrize("level", [-1, 3])
def test_levels_that_are_not_there_are_refused(
    level: int, make_store: MakeStore, levels_of_data: Data
) -> None:
    store = make_store(levels_of_data(3, 20, 4))
    reads: list[Callable[[], object]] = [
        lambda: store.level(level),
        lambda: next(store.blocks([0, level])),
        lambda: next(store.parts(level, 5)),
        lambda: store.rows(np.array([0]), [level]),
        lambda: store.shard(0, [level]),
    ]
    for read in reads:
        with pytest.raises(OneJumpError, match=f"level {level} given, 0 to 2 accepted"):
            read()


def test_shards_of_one_extraction_are_all_there(make_store: MakeStore, levels_of_data: Data) -> None:
    data = levels_of_data(2, 10, 4)

    def shard(number: int, of: int, split: str = "training") -> Path:
        return make_store(
            data, attributes={"split": split, "shard": number, "shards": of}, complete=False
        ).paths[0]

    shards = [shard(number, 3) for number in range(3)]
    assert ActivationStore(shards).samples == 30
    with pytest.raises(
        CorruptStoreError, match=r"2 of 3 shards were given, number 1 is missing.*snakemake again"
    ):
        ActivationStore([shards[0], shards[2]])
    assert ActivationStore([shards[0], shards[2]], complete=False).samples == 20
    left = shard(3, 4)  # of an earlier run with more shards
    for complete in (True, False):
        with pytest.raises(
            CorruptStoreError, match=r"is of .*shards 4, .*of .*shards 3: .*earlier run left"
        ) as caught:
            ActivationStore([*shards, left], complete=complete)
        assert str(caught.value).startswith(str(left))
        with pytest.raises(CorruptStoreError, match="split validation"):
            ActivationStore([shards[0], shard(1, 3, "validation")], complete=complete)
        with pytest.raises(CorruptStoreError, match="shard 1 was given more than once"):
            ActivationStore([*shards, shard(1, 3)], complete=complete)


def test_a_flipped_bit_in_a_description_is_found_or_harmless(
    make_store: MakeStore, levels_of_data: Data
) -> None:
    store = make_store(
        levels_of_data(3, 20, 4), chunk_samples=16, keepbits=7, attributes={"shard": 0, "shards": 1}
    )
    shard = store.paths[0]
    expected = [store.level(level) for level in range(3)] + [store.of_samples(name) for name in SAMPLE_ARRAYS]
    generator = np.random.default_rng(0)
    found = 0
    for file in sorted(shard.rglob("zarr.json")):
        content = file.read_bytes()
        for offset in generator.integers(len(content), size=40).tolist():
            damaged = bytearray(content)
            damaged[offset] ^= 1 << int(generator.integers(8))
            file.write_bytes(damaged)
            try:
                again = ActivationStore([shard])
                read = [again.level(level) for level in range(3)]
                read += [again.of_samples(name) for name in SAMPLE_ARRAYS]
            except CorruptStoreError:
                found += 1
                continue
            for one, other in zip(read, expected, strict=True):
                np.testing.assert_array_equal(one, other)
        file.write_bytes(content)
    assert found > 7 * 40  # all in the arrays' descriptions, most in the group's
