# What several rules share: paths, wildcards, and the functions that give a rule its inputs and params.
from onejump.base.fetch import is_pattern
from onejump.base.fingerprint import fingerprint
from onejump.base.selected import SELECTED
from onejump.models.description import known_description, read_description
from onejump.planning.sources import wheel_path
from onejump.study.kinds import FACTS

# In full, as a rule that is made from a rule of another folder (`use rule`) would look for them from its own folder.
SCRIPTS = RULES.join("../scripts").get_path_or_uri(secret_free=True)
ENVIRONMENT = RULES.join("../../envs/onejump.yaml").get_path_or_uri(secret_free=True)

RESULTS = f"results/{STUDY.study}"
PAIR = f"{RESULTS}/{{model}}/{{corpus}}"
# Corpora of text are there once for all models; a generated one, and a mixture, are each model's own.
GENERATED = [corpus for corpus, source in STUDY.corpora.items() if source.generated]
MIXED = [corpus for corpus, source in STUDY.corpora.items() if source.mixture]
TEXT = [corpus for corpus, source in STUDY.corpora.items() if source.is_text]
PAIRS = [corpus for corpus in TEXT if STUDY.corpora[corpus].target]
LABELLED = [corpus for corpus in TEXT if STUDY.corpora[corpus].label]
METHODS = STUDY.shortcuts.names()
FITTED = [method for method in METHODS if FACTS[method].fitted_by]
EVALUATED = STUDY.evaluated()
ANALYSED = STUDY.analysed()
EXPERIMENTS = STUDY.experiments.names()
# Ranks of the sweep, by their name in paths.
RANKS = {
    str(rank): rank for rank in (STUDY.experiments.rank_sweep.ranks if STUDY.experiments.rank_sweep else ())
}
# Numbers of training samples of the other sweep, as they are in paths.
SAMPLE_COUNTS = [
    str(count) for count in (STUDY.experiments.sample_sweep.counts if STUDY.experiments.sample_sweep else ())
]
WHEEL_CHECKSUMS = {
    (source.wheel, source.file): source.sha256
    for source in [*STUDY.models.values(), *STUDY.corpora.values()]
    if source.wheel
}


WHEEL_PATTERNS = {
    wheel_path(source).as_posix(): source.file
    for source in STUDY.corpora.values()
    if source.wheel and is_pattern(source.file)
}


def any_of(names):
    """A pattern for one of some names. An empty pattern would match everything: this one then matches nothing."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    model=any_of(STUDY.models),
    corpus=any_of(STUDY.corpora),
    target=any_of(STUDY.corpora),
    rank=any_of(RANKS),
    samples=any_of(SAMPLE_COUNTS),
    part="attention|feed-forward|norms",
    split="training|validation",
    shard=r"\d+",


def fitted_by(rule):
    """A pattern for the kinds that a rule fits."""
    # All kinds, not the study's own: an empty pattern would match every kind.
    return "|".join(kind for kind, facts in FACTS.items() if facts.fitted_by == rule)


def kind_named_by(wildcards):
    """The name of the kind whose shortcuts a job makes or loads."""
    return STUDY.fitted_as(wildcards.get("method", STUDY.selection.method))


def rank_of(wildcards):
    """The rank of a sweep, if the path has one; None stands for the study's own."""
    rank = wildcards.get("rank")
    return None if rank is None else RANKS[rank]


def kind_of(wildcards):
    """The study's section of that kind, at the rank of a sweep if the path has one."""
    kind = STUDY.shortcuts.kind(kind_named_by(wildcards))
    rank = rank_of(wildcards)
    return kind if rank is None else kind.model_copy(update={"rank": rank})


def options_of(wildcards):
    """The options of that kind, as plain values."""
    return kind_of(wildcards).model_dump()


def code_with_kinds(stage, kinds):
    """Fingerprint of a stage that loads shortcuts of some kinds. The stage finds their maps by name."""
    maps = {f"shortcuts.kinds.{FACTS[kind].stored_as.replace('-', '_')}" for kind in kinds}
    return fingerprint(stage, *sorted(maps))


def code_with_kind(stage):
    """Param function: the same with the kind of the job."""
    return lambda wildcards: code_with_kinds(stage, [kind_named_by(wildcards)])


def code_of_fit(stage):
    """Param function: fingerprint of a stage that fits, with the kind and the solver that it finds by name."""

    def of_job(wildcards):
        modules = [f"fitting.kinds.{kind_named_by(wildcards).replace('-', '_')}"]
        if solver := options_of(wildcards).get("solver"):
            modules.append(f"fitting.solvers.{solver}")
        return fingerprint(stage, *modules)

    return of_job


def sampled_corpus(wildcards):
    """The corpus whose samples a job reads. For a transfer it is the target, wherever its shortcuts were fitted."""
    return wildcards.get("target", wildcards.corpus)


def of_corpus(wildcards, corpus, text, own):
    """A file of a corpus: this one of a corpus of text, which has no model, that one of a model's own corpus."""
    if corpus in TEXT:
        return f"{RESULTS}/corpora/{text}"
    return f"{RESULTS}/{wildcards.model}/{corpus}/{own}"


def text_of(wildcards, corpus=None):
    """The table of a corpus, unless named that of the job: its sentences, what the model generated, or both."""
    corpus = corpus or wildcards.corpus
    return of_corpus(wildcards, corpus, f"{corpus}.parquet", "corpus.parquet")


def generated(wildcards):
    """What the study says of a generated corpus."""
    return STUDY.corpora[wildcards.corpus].generated


def mixture(wildcards):
    """What the study says of a mixture."""
    return STUDY.corpora[wildcards.corpus].mixture


def untrained(wildcards):
    """What the study says of an untrained model."""
    return STUDY.models[wildcards.model].untrained


def tuned(wildcards):
    """What the study says of a tuned model."""
    return STUDY.models[wildcards.model].tuned


def family_of(model):
    """A model as it was, and the models of the study that are tuned from it."""
    source = STUDY.models[model].tuned
    base = source.model if source else model
    return [
        base,
        *(name for name, other in STUDY.models.items() if other.tuned and other.tuned.model == base),
    ]


def of_family(name):
    """Input function: a file of each model of the family, on the same corpus."""

    def files(wildcards):
        return [f"{RESULTS}/{model}/{wildcards.corpus}/{name}" for model in family_of(wildcards.model)]

    return files


def prompts_of(wildcards):
    """The table of the corpus whose sentences are the prompts."""
    return text_of(wildcards, generated(wildcards).prompts)


def summary_of(wildcards):
    """How many documents each split of a corpus has."""
    return of_corpus(wildcards, wildcards.corpus, f"{wildcards.corpus}.json", "corpus.json")


def documents_of(wildcards):
    """What each document is for, in the corpus whose samples a job reads: drawn once for all readers."""
    corpus = sampled_corpus(wildcards)
    return of_corpus(wildcards, corpus, f"documents/{corpus}.parquet", "documents.parquet")


def extraction_of(wildcards):
    """What is extracted of a corpus, as plain values."""
    return STUDY.activations_of(wildcards.corpus).model_dump(exclude={"shard_sentences"})


def shards(split):
    """Input function: all shards of a split."""

    def of_pair(wildcards):
        corpus = sampled_corpus(wildcards)
        pair = PAIR.format(model=wildcards.model, corpus=corpus)
        return [
            f"{pair}/activations/{split}-{shard}.zarr" for shard in range(STUDY.shard_count(corpus, split))
        ]

    return of_pair


def transfers(wildcards):
    """Pairs (fitted on, target) of corpora that are compared for one corpus."""
    corpus = wildcards.corpus
    others = [other for other in STUDY.corpora if other != corpus]
    return [(corpus, corpus)] + [(source, other) for other in others for source in (corpus, other)]


def of_transfers(*names):
    """Input function: files of each of these; a corpus' shortcuts on itself are those of the pipeline."""

    def of_corpus(wildcards):
        return [
            f"{RESULTS}/{wildcards.model}/{fitted_on}/{'' if fitted_on == target else f'transfer/{target}/'}{name}"
            for fitted_on, target in transfers(wildcards)
            for name in names
        ]

    return of_corpus


def pairs(*names):
    """Files of every model on every corpus."""
    return [
        f"{RESULTS}/{model}/{corpus}/{name}"
        for model in STUDY.models
        for corpus in STUDY.corpora
        for name in names
    ]


def shortcuts_of(wildcards):
    kind = STUDY.fitted_as(wildcards.method)
    return f"{PAIR}/shortcuts/{kind}" if FACTS[kind].fitted_by else []


def unseen_shortcuts_of(wildcards):
    """Shortcuts that were not fitted to the documents for thresholds. Gates belong to these, and to no other fit."""
    kind = STUDY.fitted_as(wildcards.method)
    return unseen_shortcuts(kind) if FACTS[kind].fitted_by else []


def unseen_shortcuts(kind):
    """A kind's fit without the documents for thresholds.

    Distillation never fits to them; the rule `shortcuts` fits to all documents, so that its kinds are fitted again.
    """
    return f"{PAIR}/{'early-exit/' if is_fitted_again(kind) else ''}shortcuts/{kind}"


def is_fitted_again(kind):
    """Whether a kind has a second fit, without the documents for thresholds."""
    return FACTS[kind].fitted_by == "shortcuts"


def exiting_shortcuts_of(wildcards):
    """Shortcuts whose exits are measured: where thresholds are chosen, those that they are chosen with."""
    return (
        unseen_shortcuts_of(wildcards) if wildcards.method in STUDY.thresholded() else shortcuts_of(wildcards)
    )


def kept_shortcuts_of(wildcards):
    """Shortcuts that are kept for use outside of the study: with gates, those that the gates belong to."""
    return unseen_shortcuts_of(wildcards) if STUDY.export.targets else shortcuts_of(wildcards)


def selection_of(wildcards):
    return f"{PAIR}/{SELECTED[wildcards.method].selection}" if wildcards.method in SELECTED else []


def at_rank(rank, method, name):
    """A file of a method at a rank: the pipeline's own where that is the rank of the study."""
    return f"{PAIR}/{name}" if STUDY.is_fitted_at(method, RANKS[rank]) else f"{PAIR}/ranks/{rank}/{name}"


def arbitrary_of(wildcards):
    """Jumps to compare the selected one with. No other method depends on them, nor on the seed."""
    if wildcards.method not in SELECTED or not SELECTED[wildcards.method].several:
        return {}
    return STUDY.evaluation.model_dump(include={"arbitrary", "random"}) | {"seed": STUDY.seed}
