"""What the tests share: synthetic stores and heads, tiny models with their tokenizers, and a tiny corpus."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fork_server import python_by_fork
from hypothesis import HealthCheck, settings
from jumps_at_random import keep_forward_jump, keep_jump
from projects import Project, check_out
from tiny_models import disturb_norms, documents, word_tokenizer

from onejump.data.shard_writer import ShardWriter, StoreOptions
from onejump.data.store import ActivationStore
from onejump.models.head import Head, HeadConfig

torch.set_num_threads(1)
settings.register_profile(
    "onejump", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("onejump")


@pytest.fixture(scope="session")
def write_documents() -> Callable[..., Path]:
    """write_documents(folder, count=80, sentences=5): a folder of plain text, one file a document."""

    def write(folder: Path, count: int = 80, sentences: int = 5) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for number, document in enumerate(documents(count, sentences)):
            (folder / f"document-{number:03d}.txt").write_text(" ".join(document) + "\n", encoding="utf-8")
        return folder

    return write


@pytest.fixture(scope="session")
def make_head() -> Callable[..., Head]:
    """make_head(hidden, vocabulary, norm="rms", bias=False, softcap=None, scale=1.0, seed=0).

    With activation="gelu", say, a transform comes first: a masked language model's head; with first="rms" or
    "layer" besides, a norm comes before the transform.
    """

    def make(
        hidden: int,
        vocabulary: int,
        norm: Any = "rms",
        *,
        bias: bool = False,
        softcap: float | None = None,
        scale: float = 1.0,
        seed: int = 0,
        activation: str | None = None,
        first: Any = None,
    ) -> Head:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator)

        return Head(
            HeadConfig(norm, 1e-5, scale, softcap, activation, first, 1e-6 if first else 0.0),
            1 + 0.3 * normal(hidden),
            0.3 * normal(hidden) if norm == "layer" else torch.zeros(hidden),
            normal(vocabulary, hidden),
            normal(vocabulary) if bias else None,
            normal(hidden, hidden) / hidden**0.5 if activation else None,
            0.3 * normal(hidden) if activation else None,
        )

    return make


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., ActivationStore]:
    """make_store(states, sizes=None, head=None, top_k=5, attributes=None, **StoreOptions): exact by default.

    `states` is (levels, samples, H); `sizes` says how many samples go into each shard. With the attribute
    "previous", the last level's states of the position before are a row more of `states`.
    """
    numbers = itertools.count()

    def make(
        states: Any,
        *,
        sizes: Sequence[int] | None = None,
        head: Head | None = None,
        top_k: int = 5,
        complete: bool = True,
        attributes: dict[str, Any] | None = None,
        **options: Any,
    ) -> ActivationStore:
        states = np.asarray(states, dtype=np.float32)
        levels, samples, hidden = states.shape
        number = next(numbers)
        paths = []
        start = 0
        for index, size in enumerate(sizes or [samples]):
            part = states[:, start : start + size]
            if head is None:
                logits = torch.zeros(size, 2 * top_k) - torch.arange(2.0 * top_k)
            else:
                last = part[-2] if attributes and attributes.get("previous") else part[-1]
                logits = head.logits(torch.from_numpy(last))
            top_logits, top_tokens = logits.topk(top_k)
            path = tmp_path / f"store-{number}" / f"{index}.zarr"
            chosen = StoreOptions(**{"keepbits": None, "chunk_samples": 64} | options)
            sizes_of_shard = {"levels": levels, "samples": size, "hidden": hidden, "top_k": top_k}
            with ShardWriter(path, **sizes_of_shard, options=chosen, attributes=attributes) as writer:
                writer.append(
                    part,
                    sentence=np.arange(start, start + size),
                    position=np.arange(size) % 7,
                    token=np.arange(size) % 11,
                    top_tokens=top_tokens.numpy(),
                    top_logits=top_logits.numpy(),
                    logsumexp=logits.logsumexp(-1).numpy(),
                )
            paths.append(path)
            start += size
        assert start == samples
        return ActivationStore(paths, complete=complete)

    return make


@pytest.fixture(scope="session")
def tiny_masked_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """tiny_masked_folder("bert" or "roberta"): a random masked language model of 4 blocks and H = 32.

    With a word tokenizer that has a mask and puts special tokens around each sentence. The two pad with
    different tokens (0 and 1), which decide RoBERTa's position ids.
    """
    import transformers as hf

    sizes: dict[str, Any] = {
        "num_hidden_layers": 4,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "vocab_size": 200,
        "max_position_embeddings": 128,
        "initializer_range": 0.15,
    }
    roles = {
        "bert": ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"),
        "roberta": ("cls_token", "pad_token", "sep_token", "unk_token", "mask_token"),
    }
    folder = tmp_path_factory.mktemp("masked")

    def make(family: str) -> Path:
        path = folder / f"tiny-{family}"
        if not path.exists():
            torch.manual_seed(0)
            model = (
                hf.BertForMaskedLM(hf.BertConfig(**sizes))
                if family == "bert"
                else hf.RobertaForMaskedLM(hf.RobertaConfig(**sizes, pad_token_id=1))
            )
            disturb_norms(model)
            special = {role: f"[{role.removesuffix('_token').upper()}]" for role in roles[family]}
            word_tokenizer(special, "[CLS] $A [SEP]").save_pretrained(path)
            model.save_pretrained(path)
        return path

    return make


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 4 blocks and H = 32, with a word tokenizer, as `save_pretrained` writes them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    wrapped = word_tokenizer({"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"})
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            num_hidden_layers=4,
            hidden_size=32,
            intermediate_size=64,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=200,
            max_position_embeddings=128,
            initializer_range=0.15,
            tie_word_embeddings=False,
        )
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("model") / "tiny-llama"
    model.save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def kept_jump(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """A jump of the tiny model that leaves out 4 of 32 directions; its gate "95%" lets about half exit."""
    folder = tmp_path_factory.mktemp("kept") / "jump"
    gates = {
        "95%": {"kind": "top-probability", "levels": [1, 3], "thresholds": [0.05, 0.03]},
        "99%": {"kind": "top-probability", "levels": [2], "thresholds": [1.0]},
    }
    keep_jump(folder, tiny_model_folder, 28, gates)
    return folder


@pytest.fixture(scope="session")
def kept_forward(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """A forward jump of the tiny model, without a calibrated gate."""
    folder = tmp_path_factory.mktemp("kept-forward") / "jump"
    keep_forward_jump(folder, tiny_model_folder, 28)
    return folder


@pytest.fixture(scope="session")
def tiny_marian(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A random Marian, which asks for four beams as those on the hub do, and a jump of it."""
    import transformers as hf
    from families import disturb

    folder = tmp_path_factory.mktemp("marian")
    sizes: dict[str, Any] = {"encoder_layers": 2, "decoder_layers": 3, "d_model": 32, "vocab_size": 200}
    sizes |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 48)
    sizes |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4)
    tokens = {"pad_token_id": 1, "eos_token_id": 2, "bos_token_id": None, "decoder_start_token_id": 1}
    torch.manual_seed(0)
    config = hf.MarianConfig(**sizes, **tokens, max_position_embeddings=64, forced_eos_token_id=2)
    model = hf.MarianMTModel(config).eval()
    disturb(model, 4)
    model.generation_config.update(num_beams=4, bad_words_ids=[[1]], max_length=40, decoder_start_token_id=1)
    model.generation_config.update(forced_eos_token_id=2, eos_token_id=2, pad_token_id=1)
    model.save_pretrained(folder / "marian")
    special = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>"}
    word_tokenizer(special, "$A </s>").save_pretrained(folder / "marian")
    gates = {"95%": {"kind": "top-probability", "levels": [1, 2], "thresholds": [0.05, 0.03]}}
    keep_jump(folder / "jump", folder / "marian", 28, gates)
    return folder / "marian", folder / "jump"


@pytest.fixture
def levels_of_data() -> Callable[..., np.ndarray]:
    """levels_of_data(levels, samples, hidden, seed=0): correlated states that drift from level to level."""

    def make(levels: int, samples: int, hidden: int, seed: int = 0) -> np.ndarray:
        generator = np.random.default_rng(seed)
        state = (
            generator.normal(size=(samples, hidden)) @ generator.normal(size=(hidden, hidden)) / hidden**0.5
        )
        state += generator.normal(size=hidden)
        states = [state]
        for _ in range(levels - 1):
            step = generator.normal(size=(hidden, hidden)) / hidden**0.5
            state = state + 0.5 * np.tanh(state @ step) + 0.2 * generator.normal(size=state.shape)
            states.append(state)
        return np.stack(states).astype(np.float32)

    return make


@pytest.fixture
def only() -> Callable[[Path], list[str]]:
    """only(folder): names of everything in a folder, hidden files included."""
    return lambda folder: sorted(path.name for path in folder.iterdir())


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", "ignore:Numcodecs codecs are not in the Zarr version 3")


@pytest.fixture(scope="session")
def quick_python() -> Iterator[Path]:
    """A program in place of `python`, whose processes begin with torch and Snakemake imported."""
    read_by_imports = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    # Of a short path, as a socket lies in it.
    with (
        tempfile.TemporaryDirectory(prefix="oj") as folder,
        python_by_fork(Path(folder), os.environ | read_by_imports) as program,
    ):
        yield program


@pytest.fixture(scope="session")
def fresh_project(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model_folder: Path,
    write_documents: Callable[..., Path],
    quick_python: Path,
) -> Callable[[], Project]:
    """fresh_project(): a checkout with a tiny study that has not run; its jobs are processes by fork."""

    def make() -> Project:
        project = Project(tmp_path_factory.mktemp("fresh") / "project", quick_python)
        check_out(project.folder)
        write_documents(project.folder / "text", count=160)
        shutil.copytree(tiny_model_folder, project.folder / "tiny-llama")
        project.study = {
            "study": "tiny",
            "models": {"tiny-llama": {"folder": "tiny-llama"}},
            "corpora": {"stories": {"path": "text", "training": 200, "validation": 80}},
            "activations": {"shard_sentences": 100, "store": {"chunk_samples": 64}},
            "shortcuts": {"identity": {}, "jtc": {}, "n-njtc": {"rank": 3}, "joint": {"rank": 3}},
            "evaluation": {"random": 1},
        }
        return project

    return make


@pytest.fixture(scope="session")
def finished(fresh_project: Callable[[], Project]) -> Project:
    project = fresh_project()
    project.snakemake()
    return project
