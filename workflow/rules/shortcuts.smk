rule shortcuts:
    input:
        shards=shards("training"),
        description=ancient(f"{RESULTS}/{{model}}/model.json"),
    output:
        folder=directory(f"{PAIR}/shortcuts/{{method}}"),
    log:
        f"{PAIR}/logs/shortcuts/{{method}}.log",
    benchmark:
        f"{PAIR}/benchmarks/shortcuts/{{method}}.tsv"
    wildcard_constraints:
        method=fitted_by("shortcuts"),
    conda:
        ENVIRONMENT
    threads: threads_of(fit_cost_of)
    resources:
        **asked_of_the_site(fit_cost_of, "shortcuts", kind=kind_of),
    params:
        options=options_of,
        # Only the gradient solver draws random numbers.
        seed=lambda w: STUDY.seed if options_of(w)["solver"] == "gradient" else 0,
        code=code_of_fit("fitting.shortcuts"),
    message:
        "Fitting {wildcards.method} of {wildcards.model} on {wildcards.corpus}"
    script:
        f"{SCRIPTS}/shortcuts.py"
