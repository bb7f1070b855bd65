rule activations:
    input:
        description=f"{RESULTS}/{{model}}/model.json",
        # The digest in model.json tells whether they are other ones.
        weights=ancient(unpacked),
        sentences=text_of,
    output:
        activations=directory(f"{PAIR}/activations/{{split}}-{{shard}}.zarr"),
    log:
        f"{PAIR}/logs/activations/{{split}}-{{shard}}.log",
    benchmark:
        f"{PAIR}/benchmarks/activations/{{split}}-{{shard}}.tsv"
    # Two studies that share model, corpus and sampling extract once: snakemake --cache activations.
    cache: workflow.enable_cache
    conda:
        ENVIRONMENT
    threads: threads_of(shard_cost_of)
    resources:
        **asked_of_the_site(shard_cost_of, "activations"),
    params:
        # The cache tells jobs apart by their parameters: by content, not by where it was found, as a branch on
        # the hub moves.
        content=lambda w, input: [
            read_description(input.description).model_digest,
            file_digest(input.sentences),
        ],
        split=lambda w: w.split,
        shard=lambda w: int(w.shard),
        options=lambda w: extraction_of(w) | ({"previous": True} if STUDY.keeps_previous() else {}),
        shards=lambda w: STUDY.shard_count(w.corpus, w.split),
        seed=STUDY.seed,
        code=fingerprint("models.activations"),
    message:
        "Activations of {wildcards.model} on {wildcards.corpus}: {wildcards.split} shard {wildcards.shard}"
    script:
        f"{SCRIPTS}/activations.py"


if workflow.enable_cache:
    # Snakemake refuses a benchmark of what may come from a cache.
    rules.activations.rule._benchmark = None
