rule analysis:
    input:
        shards=shards("training"),
        head=f"{RESULTS}/{{model}}/head.safetensors",
        shortcuts=[f"{PAIR}/shortcuts/{method}" for method in ANALYSED],
        description=ancient(f"{RESULTS}/{{model}}/model.json"),
    output:
        table=f"{PAIR}/analysis.parquet",
    log:
        f"{PAIR}/logs/analysis.log",
    benchmark:
        f"{PAIR}/benchmarks/analysis.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of(analysis_cost_of)
    resources:
        **asked_of_the_site(analysis_cost_of, "analysis"),
    params:
        methods=ANALYSED,
        code=code_with_kinds("scoring.analysis", ANALYSED),
    message:
        "Analysing the jumps of {wildcards.model} on {wildcards.corpus}"
    script:
        f"{SCRIPTS}/analysis.py"
