# The pipeline's own jobs on fewer samples.
WITH_SAMPLES = f"{PAIR}/samples/{{samples}}"
SAMPLED = [(method, count) for method in STUDY.sampled() for count in SAMPLE_COUNTS]


use rule distillation as sample_distillation with:
    output:
        folder=directory(f"{WITH_SAMPLES}/shortcuts/{{method}}"),
    log:
        f"{PAIR}/logs/samples/{{samples}}/shortcuts/{{method}}.log",
    benchmark:
        f"{PAIR}/benchmarks/samples/{{samples}}/shortcuts/{{method}}.tsv"
    params:
        options=options_of,
        seed=STUDY.seed,
        samples=lambda w: int(w.samples),
        code=code_of_fit("fitting.distillation"),
    message:
        "Distilling {wildcards.method} on {wildcards.samples} samples, {wildcards.model} on {wildcards.corpus}"


use rule evaluate as sample_evaluate with:
    input:
        shards=shards("validation"),
        head=f"{RESULTS}/{{model}}/head.safetensors",
        shortcuts=f"{WITH_SAMPLES}/shortcuts/{{method}}",
        selection=[],
        documents=documents_of,
        description=ancient(f"{RESULTS}/{{model}}/model.json"),
    output:
        table=f"{WITH_SAMPLES}/evaluation/{{method}}.parquet",
    log:
        f"{PAIR}/logs/samples/{{samples}}/evaluation/{{method}}.log",
    benchmark:
        f"{PAIR}/benchmarks/samples/{{samples}}/evaluation/{{method}}.tsv"
    wildcard_constraints:
        method=fitted_by("distillation"),
    message:
        "Evaluating {wildcards.method} of {wildcards.samples} samples, {wildcards.model} on {wildcards.corpus}"


rule sample_sweep:
    input:
        evaluations=[f"{PAIR}/samples/{count}/evaluation/{method}.parquet" for method, count in SAMPLED],
        shortcuts=[f"{PAIR}/samples/{count}/shortcuts/{method}" for method, count in SAMPLED],
    output:
        table=f"{PAIR}/sample-sweep.parquet",
    log:
        f"{PAIR}/logs/sample-sweep.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=code_with_kinds("experiments.sample_sweep", STUDY.sampled()),
    message:
        "Kinds at every number of samples, {wildcards.model} on {wildcards.corpus}"
    script:
        f"{SCRIPTS}/sample_sweep.py"
