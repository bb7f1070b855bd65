# The study's section, or nothing if it has none.
SUB_LAYERS = STUDY.experiments.options("sub-layers") if "sub-layers" in EXPERIMENTS else {}


rule sub_layers:
    input:
        description=f"{RESULTS}/{{model}}/model.json",
        weights=ancient(unpacked),
        sentences=text_of,
        documents=documents_of,
    output:
        table=f"{PAIR}/sub-layers/states.parquet",
        exits=f"{PAIR}/sub-layers/exits.parquet",
    log:
        f"{PAIR}/logs/sub-layers.log",
    benchmark:
        f"{PAIR}/benchmarks/sub-layers.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of(sub_layers_cost_of)
    resources:
        **asked_of_the_site(sub_layers_cost_of, "sub_layers"),
    params:
        samples=SUB_LAYERS.get("samples"),
        top=SUB_LAYERS.get("top"),
        rules=SUB_LAYERS.get("rules"),
        targets=SUB_LAYERS.get("targets"),
        from_level=SUB_LAYERS.get("from_level"),
        options=extraction_of,
        seed=STUDY.seed,
        code=fingerprint("experiments.sub_layers"),
    message:
        "Reading the states inside of blocks, {wildcards.model} on {wildcards.corpus}"
    script:
        f"{SCRIPTS}/sub_layers.py"
