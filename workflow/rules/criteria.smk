rule criteria:
    input:
        shards=shards("validation"),
        head=f"{RESULTS}/{{model}}/head.safetensors",
        shortcuts=f"{PAIR}/shortcuts/{STUDY.selection.method}",
        selection=f"{PAIR}/selection.json",
        model=ancient(f"{RESULTS}/{{model}}/model.json"),
    output:
        f"{PAIR}/criteria.parquet",
    log:
        f"{PAIR}/logs/criteria.log",
    benchmark:
        f"{PAIR}/benchmarks/criteria.tsv"
    conda:
        "../../envs/onejump.yaml"
    threads: 16
    resources:
        **asked_of_the_site(
            lambda w, sizes: criteria_cost(
                sizes, options_of(w), STUDY.activations.store, samples=samples(w.corpus, "validation")
            ),
            "criteria",
        ),
    params:
        precision_at=STUDY.evaluation.precision_at,
        code=fingerprint("criteria"),
    message:
        "Comparing what criteria choose for {wildcards.model} on {wildcards.corpus}"
    script:
        "../scripts/criteria.py"
