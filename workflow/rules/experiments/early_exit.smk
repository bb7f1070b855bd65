EXIT = f"{PAIR}/early-exit"


rule confidences:
    input:
        shards=shards("validation"),
        head=f"{RESULTS}/{{model}}/head.safetensors",
        shortcuts=exiting_shortcuts_of,
        selection=selection_of,
        documents=documents_of,
        description=ancient(f"{RESULTS}/{{model}}/model.json"),
    output:
        table=f"{EXIT}/validation/{{method}}.parquet",
    log:
        f"{PAIR}/logs/early-exit/validation/{{method}}.log",
    benchmark:
        f"{PAIR}/benchmarks/early-exit/validation/{{method}}.tsv"
    wildcard_constraints:
        method="|".join(EVALUATED),
    conda:
        ENVIRONMENT
    threads: threads_of(evaluation_cost_of)
    resources:
        **asked_of_the_site(evaluation_cost_of, "confidences"),
    params:
        role=None,
        coordinates=lambda w: w.method in STUDY.learning(),
        code=code_with_kind("exits.measuring"),
    message:
        "Confidence of {wildcards.method}, {wildcards.model} on {wildcards.corpus}"
    script:
        f"{SCRIPTS}/confidences.py"


use rule confidences as held_out_confidences with:
    input:
        shards=shards("training"),
        head=f"{RESULTS}/{{model}}/head.safetensors",
        shortcuts=unseen_shortcuts_of,
        selection=selection_of,
        documents=documents_of,
        description=ancient(f"{RESULTS}/{{model}}/model.json"),
    output:
        table=f"{EXIT}/held-out/{{method}}.parquet",
    log:
        f"{PAIR}/logs/early-exit/held-out/{{method}}.log",
    benchmark:
        f"{PAIR}/benchmarks/early-exit/held-out/{{method}}.tsv"
    params:
        role="thresholds",
        coordinates=lambda w: w.method in STUDY.learning(),
        code=code_with_kind("exits.measuring"),
    message:
        "Confidence of {wildcards.method} on documents for thresholds, {wildcards.model} on {wildcards.corpus}"


rule early_exit:
    input:
        held_out=[f"{EXIT}/held-out/{method}.parquet" for method in STUDY.exiting()],
        validation=[f"{EXIT}/validation/{method}.parquet" for method in STUDY.exiting()],
    output:
        curves=f"{EXIT}/curves.parquet",
        savings=f"{EXIT}/savings.parquet",
    log:
        f"{PAIR}/logs/early-exit.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        options=(
            STUDY.experiments.early_exit.model_dump(
                include={"rules", "targets", "tau", "length", "from_level"}
            )
            if STUDY.experiments.early_exit
            else {}
        ),
        code=fingerprint("experiments.early_exit"),
    message:
        "Blocks saved by exiting early, {wildcards.model} on {wildcards.corpus}"
    script:
        f"{SCRIPTS}/early_exit.py"
