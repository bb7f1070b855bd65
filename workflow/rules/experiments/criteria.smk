rule criteria:
    input:
        shards=shards("validation"),
        head=f"{RESULTS}/{{model}}/head.safetensors",
        shortcuts=f"{PAIR}/shortcuts/{STUDY.selection.method}",
        selection=f"{PAIR}/selection.json",
        documents=documents_of,
        description=ancient(f"{RESULTS}/{{model}}/model.json"),
    output:
        table=f"{PAIR}/criteria.parquet",
    log:
        f"{PAIR}/logs/criteria.log",
    benchmark:
        f"{PAIR}/benchmarks/criteria.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of(criteria_cost_of)
    resources:
        **asked_of_the_site(criteria_cost_of, "criteria"),
    params:
        precision_at=STUDY.evaluation.precision_at,
        code=code_with_kind("experiments.criteria"),
    message:
        "Comparing what criteria choose for {wildcards.model} on {wildcards.corpus}"
    script:
        f"{SCRIPTS}/criteria.py"
