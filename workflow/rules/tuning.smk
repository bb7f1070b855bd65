# Models that are tuned from another model of the study. The folder takes the place of weights that are unpacked.


rule tuning:
    input:
        description=lambda w: f"{RESULTS}/{tuned(w).model}/model.json",
        weights=ancient(lambda w: weights_made(tuned(w).model)),
        sentences=lambda w: f"{RESULTS}/corpora/{tuned(w).corpus}.parquet",
        documents=lambda w: f"{RESULTS}/corpora/documents/{tuned(w).corpus}.parquet",
    output:
        folder=directory(f"{RESULTS}/{{model}}/weights"),
    log:
        f"{RESULTS}/logs/tuning/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/tuning/{{model}}.tsv"
    wildcard_constraints:
        model=any_of(name for name, model in STUDY.models.items() if model.tuned),
    conda:
        ENVIRONMENT
    threads: threads_of(tuning_cost_of)
    resources:
        **asked_of_the_site(tuning_cost_of, "tuning"),
    params:
        options=lambda w: tuned(w).model_dump(exclude={"model", "corpus", "seed"})
        | {"max_tokens": STUDY.activations.max_tokens},
        seed=lambda w: STUDY.seed if tuned(w).seed is None else tuned(w).seed,
        code=fingerprint("fitting.tuning"),
    message:
        "Tuning {wildcards.model}"
    script:
        f"{SCRIPTS}/tuning.py"
