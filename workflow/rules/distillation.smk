rule distillation:
    input:
        shards=shards("training"),
        head=f"{RESULTS}/{{model}}/head.safetensors",
        documents=documents_of,
        description=ancient(f"{RESULTS}/{{model}}/model.json"),
    output:
        folder=directory(f"{PAIR}/shortcuts/{{method}}"),
    log:
        f"{PAIR}/logs/shortcuts/{{method}}.log",
    benchmark:
        f"{PAIR}/benchmarks/shortcuts/{{method}}.tsv"
    wildcard_constraints:
        method=fitted_by("distillation"),
    conda:
        ENVIRONMENT
    threads: threads_of(fit_cost_of)
    resources:
        **asked_of_the_site(fit_cost_of, "distillation"),
    params:
        options=options_of,
        seed=STUDY.seed,
        code=code_of_fit("fitting.distillation"),
    message:
        "Distilling {wildcards.method} of {wildcards.model} on {wildcards.corpus}"
    script:
        f"{SCRIPTS}/distillation.py"
