PARTS = STUDY.experiments.sub_modules.parts if STUDY.experiments.sub_modules else []
OF_PARTS = f"{PAIR}/sub-modules"


rule sub_module_activations:
    input:
        description=f"{RESULTS}/{{model}}/model.json",
        weights=ancient(unpacked),
        sentences=text_of,
    output:
        # As large as the activations for each part, and of no use once its maps are fitted.
        activations=temp(directory(f"{OF_PARTS}/activations/{{part}}-{{shard}}.zarr")),
    log:
        f"{PAIR}/logs/sub-modules/activations/{{part}}-{{shard}}.log",
    benchmark:
        f"{PAIR}/benchmarks/sub-modules/activations/{{part}}-{{shard}}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of(sub_module_activations_cost_of)
    resources:
        **asked_of_the_site(sub_module_activations_cost_of, "sub_module_activations"),
    params:
        options=extraction_of,
        shards=lambda w: STUDY.shard_count(w.corpus, "training"),
        seed=STUDY.seed,
        code=fingerprint("experiments.sub_module_activations"),
    message:
        "Inputs and outputs of {wildcards.part}, {wildcards.model} on {wildcards.corpus}: shard {wildcards.shard}"
    script:
        f"{SCRIPTS}/sub_module_activations.py"


rule sub_module_maps:
    input:
        shards=lambda w: [
            f"{OF_PARTS}/activations/{{part}}-{shard}.zarr"
            for shard in range(STUDY.shard_count(w.corpus, "training"))
        ],
        description=ancient(f"{RESULTS}/{{model}}/model.json"),
    output:
        folder=directory(f"{OF_PARTS}/maps/{{part}}"),
    log:
        f"{PAIR}/logs/sub-modules/maps/{{part}}.log",
    benchmark:
        f"{PAIR}/benchmarks/sub-modules/maps/{{part}}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of(sub_module_maps_cost_of)
    resources:
        **asked_of_the_site(sub_module_maps_cost_of, "sub_module_maps"),
    params:
        code=code_with_kinds("experiments.sub_module_maps", ["jtc"]),
    message:
        "Fitting linear maps to {wildcards.part}, {wildcards.model} on {wildcards.corpus}"
    script:
        f"{SCRIPTS}/sub_module_maps.py"


rule sub_modules:
    input:
        description=f"{RESULTS}/{{model}}/model.json",
        weights=ancient(unpacked),
        sentences=text_of,
        maps=[f"{OF_PARTS}/maps/{part}" for part in PARTS],
    output:
        table=f"{PAIR}/sub-modules.parquet",
    log:
        f"{PAIR}/logs/sub-modules.log",
    benchmark:
        f"{PAIR}/benchmarks/sub-modules.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of(sub_modules_cost_of)
    resources:
        **asked_of_the_site(sub_modules_cost_of, "sub_modules"),
    params:
        parts=PARTS,
        step=STUDY.experiments.sub_modules.step if STUDY.experiments.sub_modules else None,
        samples=STUDY.experiments.sub_modules.samples if STUDY.experiments.sub_modules else None,
        precision_at=STUDY.evaluation.precision_at,
        options=extraction_of,
        seed=STUDY.seed,
        code=code_with_kinds("experiments.sub_modules", ["jtc"]),
    message:
        "Running {wildcards.model} on {wildcards.corpus} with linear parts"
    script:
        f"{SCRIPTS}/sub_modules.py"
