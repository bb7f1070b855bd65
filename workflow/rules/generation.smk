# Generated corpora: each model writes its own, in the folder of the model and the corpus. Mixtures are there too.
from onejump.study.sources import sources_of


rule generation:
    input:
        description=f"{RESULTS}/{{model}}/model.json",
        # The digest in model.json tells whether they are other ones.
        weights=ancient(unpacked),
        prompts=prompts_of,
    output:
        texts=f"{PAIR}/generated/{{split}}-{{shard}}.parquet",
    log:
        f"{PAIR}/logs/generation/{{split}}-{{shard}}.log",
    benchmark:
        f"{PAIR}/benchmarks/generation/{{split}}-{{shard}}.tsv"
    wildcard_constraints:
        corpus=any_of(GENERATED),
    conda:
        ENVIRONMENT
    threads: threads_of(generation_cost_of)
    resources:
        **asked_of_the_site(generation_cost_of, "generation"),
    params:
        split=lambda w: w.split,
        shard=lambda w: int(w.shard),
        shards=lambda w: STUDY.shard_count(w.corpus, w.split),
        wanted=lambda w: getattr(STUDY.corpora[w.corpus], w.split),
        options=lambda w: generated(w).model_dump(exclude={"prompts", "positions", "seed"}),
        seed=lambda w: STUDY.seed if generated(w).seed is None else generated(w).seed,
        code=fingerprint("runtime.generated_corpus"),
    message:
        "Generating text with {wildcards.model}, {wildcards.corpus}: {wildcards.split} shard {wildcards.shard}"
    script:
        f"{SCRIPTS}/generation.py"


rule generated_corpus:
    input:
        texts=lambda w: [
            f"{PAIR}/generated/{split}-{shard}.parquet"
            for split in ("training", "validation")
            for shard in range(STUDY.shard_count(w.corpus, split))
        ],
    output:
        table=f"{PAIR}/corpus.parquet",
        summary=f"{PAIR}/corpus.json",
    log:
        f"{PAIR}/logs/generated-corpus.log",
    wildcard_constraints:
        corpus=any_of(GENERATED),
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=fingerprint("data.generated_texts"),
    message:
        "Texts of {wildcards.model}, {wildcards.corpus}"
    script:
        f"{SCRIPTS}/generated_corpus.py"


rule mixture:
    input:
        texts=lambda w: [text_of(w, part) for part in mixture(w).parts],
    output:
        table=f"{PAIR}/corpus.parquet",
        summary=f"{PAIR}/corpus.json",
    log:
        f"{PAIR}/logs/mixture.log",
    wildcard_constraints:
        corpus=any_of(MIXED),
    localrule: True
    conda:
        ENVIRONMENT
    params:
        parts=lambda w: [
            {"corpus": part, "share": mixture(w).parts[part], "source": source}
            for part, source in sources_of(STUDY.corpora, mixture(w).parts).items()
        ],
        training=lambda w: STUDY.corpora[w.corpus].training,
        validation=lambda w: STUDY.corpora[w.corpus].validation,
        code=fingerprint("data.mixture"),
    message:
        "Mixing corpora, {wildcards.corpus} for {wildcards.model}"
    script:
        f"{SCRIPTS}/mixture.py"


use rule document_roles as generated_document_roles with:
    input:
        sentences=f"{PAIR}/corpus.parquet",
    output:
        documents=f"{PAIR}/documents.parquet",
    log:
        f"{PAIR}/logs/document-roles.log",
    wildcard_constraints:
        corpus=any_of(GENERATED + MIXED),
    localrule: True
    message:
        "What each document of {wildcards.corpus} by {wildcards.model} is for"
