rule analysis:
    input:
        shards=shards("training"),
        head=f"{RESULTS}/{{model}}/head.safetensors",
        shortcuts=[f"{PAIR}/shortcuts/{method}" for method in ANALYSED],
        model=ancient(f"{RESULTS}/{{model}}/model.json"),
    output:
        f"{PAIR}/analysis.parquet",
    log:
        f"{PAIR}/logs/analysis.log",
    benchmark:
        f"{PAIR}/benchmarks/analysis.tsv"
    conda:
        "../../envs/onejump.yaml"
    threads: 16
    resources:
        **asked_of_the_site(
            lambda w, sizes: analysis_cost(
                sizes,
                [STUDY.shortcuts.options(method)["rank"] for method in ANALYSED],
                samples=samples(w.corpus, "training"),
                top_k=STUDY.activations.top_k,
            ),
            "analysis",
        ),
    params:
        methods=ANALYSED,
        code=fingerprint("analysis"),
    message:
        "Analysing the jumps of {wildcards.model} on {wildcards.corpus}"
    script:
        "../scripts/analysis.py"
