from onejump.study.export import EXPORTABLE


use rule shortcuts as calibration_shortcuts with:
    input:
        shards=shards("training"),
        documents=documents_of,
        description=ancient(f"{RESULTS}/{{model}}/model.json"),
    output:
        folder=directory(f"{PAIR}/early-exit/shortcuts/{{method}}"),
    log:
        f"{PAIR}/logs/early-exit/shortcuts/{{method}}.log",
    benchmark:
        f"{PAIR}/benchmarks/early-exit/shortcuts/{{method}}.tsv"
    params:
        options=options_of,
        seed=0,
        code=code_of_fit("fitting.shortcuts"),
    message:
        "Fitting {wildcards.method} without the documents for thresholds, {wildcards.model} on {wildcards.corpus}"


rule calibration:
    input:
        held_out=shards("training"),
        validation=shards("validation"),
        head=f"{RESULTS}/{{model}}/head.safetensors",
        description=f"{RESULTS}/{{model}}/model.json",
        shortcuts=unseen_shortcuts_of,
        selection=selection_of,
        documents=documents_of,
    output:
        table=f"{PAIR}/calibration/{{method}}.parquet",
        calibration=f"{PAIR}/calibration/{{method}}.json",
    log:
        f"{PAIR}/logs/calibration/{{method}}.log",
    benchmark:
        f"{PAIR}/benchmarks/calibration/{{method}}.tsv"
    wildcard_constraints:
        method="|".join(EXPORTABLE),
    conda:
        ENVIRONMENT
    threads: threads_of(evaluation_cost_of)
    resources:
        **asked_of_the_site(evaluation_cost_of, "calibration"),
    params:
        targets=STUDY.export.targets,
        guarantee=STUDY.export.guarantee,
        code=code_with_kind("exits.gate_calibration"),
    message:
        "Calibrating gates of {wildcards.method}, {wildcards.model} on {wildcards.corpus}"
    script:
        f"{SCRIPTS}/calibration.py"
