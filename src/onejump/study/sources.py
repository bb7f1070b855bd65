"""Sections of what a study reads: its models and its corpora."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from onejump.study.messages import rule
from onejump.study.values import (
    HubName,
    Language,
    ModelPath,
    Section,
    Sha256,
    Wheel,
    WheelFile,
    exactly_one,
    refuse_without_effect,
)


def _refuse_idle_wheel_keys(section: Model | Corpus) -> None:
    if section.wheel is None:
        refuse_without_effect(section, ("file", "sha256"), "without wheel")
    elif section.file is None:
        raise rule("missing; it names the file inside the wheel", "file")


class Modules(Section):
    """Where a model's parts are, for a model in which onejump does not find them; see docs/families.md."""

    blocks: Annotated[str, Field(min_length=1)] | None = None
    """Path of the list of blocks, as `named_modules()` says it, such as backbone.layers."""
    norm: Annotated[str, Field(min_length=1)] | None = None
    """Path of the norm that takes the last block's output."""
    head: Annotated[str, Field(min_length=1)] | None = None
    """Path of the unembedding, a Linear."""


class Model(Section):
    """A causal or masked language model: one of hub, folder, gguf or wheel says where its weights are."""

    hub: HubName | None = None
    """Name on the Hugging Face hub, such as openai-community/gpt2-xl."""
    revision: str | None = None
    """Branch, tag or commit of the hub model; the commit found is kept in model.json."""
    folder: ModelPath | None = None
    """A local folder that `save_pretrained` wrote (model and tokenizer). Relative to the study file."""
    gguf: ModelPath | None = None
    """A local GGUF file. Relative to the study file."""
    wheel: Wheel | None = None
    """A pinned Python wheel, name==version, that carries a GGUF file; it is read as data, never installed."""
    file: WheelFile | None = None
    """Path of the GGUF file inside the wheel."""
    sha256: Sha256 | None = None
    """SHA-256 of that file."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Number format of the weights in the forward pass."""
    trust_remote_code: bool = False
    """Run Python code that the model's repository brings. Off unless you have read it."""
    allow_pickle: bool = False
    """Read weights that are pickled (pytorch_model.bin). Off, as a pickle can run code when it is read."""
    modules: Modules | None = None
    """Where blocks, final norm and head are, for a model in which onejump does not find them."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        exactly_one(self, ("hub", "folder", "gguf", "wheel"))
        _refuse_idle_wheel_keys(self)
        if self.hub is None:
            refuse_without_effect(self, ("revision",), "on a model that is not from the hub")
        if self.gguf is not None or self.wheel is not None:
            refuse_without_effect(
                self, ("trust_remote_code", "allow_pickle"), "on a GGUF file, which holds no code"
            )
        return self


class Corpus(Section):
    """Documents, and how many of their sentences to keep; one of path, dataset, wheel or standard_library."""

    path: Annotated[str, Field(min_length=1)] | None = None
    """A .txt, .py, .jsonl, .json or .parquet file, or a folder of them. Relative to the study file."""
    standard_library: Literal[True] | None = None
    """true: the source code of Python's own standard library, of the Python that runs; unit: paragraph."""
    dataset: Annotated[str, Field(min_length=1)] | None = None
    """A Hugging Face dataset by name, or a folder that `save_to_disk` wrote (relative to the study file)."""
    subset: str | None = None
    """Configuration of the dataset."""
    split: str = "train"
    """Split of the dataset."""
    revision: str | None = None
    """Branch, tag or commit of the dataset."""
    wheel: Wheel | None = None
    """A pinned Python wheel, name==version, that carries a text file; it is read as data, never installed."""
    file: WheelFile | None = None
    """Path of the text file inside the wheel."""
    sha256: Sha256 | None = None
    """SHA-256 of that file."""
    text: str = "text"
    """Key or column that holds a document's text."""
    language: Language = "en"
    """Language of the text, for the sentence segmentation (ISO 639 code)."""
    unit: Literal["sentence", "paragraph"] = "sentence"
    """What a document is cut into: sentences, or what stands between empty lines, as it is (source code)."""
    training: PositiveInt
    """Sentences to fit and select on."""
    validation: PositiveInt
    """Sentences to evaluate on, from other documents than the training sentences: a hash of its text puts
    a document on either side, three of four on that of training."""
    min_characters: PositiveInt = 20
    """Shorter sentences are left out."""
    max_characters: PositiveInt = 1000
    """Longer sentences are left out."""
    max_documents: PositiveInt = 100_000
    """Documents to read at most."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        exactly_one(self, ("path", "dataset", "wheel", "standard_library"))
        _refuse_idle_wheel_keys(self)
        if self.dataset is None:
            refuse_without_effect(self, ("subset", "split", "revision"), "without dataset")
        if self.standard_library or (self.path or self.file or "").lower().endswith((".txt", ".py")):
            refuse_without_effect(self, ("text",), "on plain text, which has no keys or columns")
        if self.unit == "paragraph":
            refuse_without_effect(self, ("language",), "on paragraphs, which are not cut into sentences")
        if self.min_characters > self.max_characters:
            raise rule(
                f"{self.said('min_characters')}, accepted is at most max_characters = {self.max_characters}",
                "min_characters",
            )
        return self
