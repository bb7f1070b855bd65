rule shortcuts:
    input:
        shards=shards("training"),
        model=ancient(f"{RESULTS}/{{model}}/model.json"),
    output:
        directory(f"{PAIR}/shortcuts/{{method}}"),
    log:
        f"{PAIR}/logs/shortcuts/{{method}}.log",
    benchmark:
        f"{PAIR}/benchmarks/shortcuts/{{method}}.tsv"
    wildcard_constraints:
        method="|".join(sorted(set(FITTED) - set(DISTILLED_METHODS))),
    conda:
        "../../envs/onejump.yaml"
    threads: 16
    resources:
        **asked_of_the_site(
            cost_of_fit,
            "shortcuts",
            options=lambda w: STUDY.shortcuts.options(w.method),
        ),
    params:
        options=lambda w: STUDY.shortcuts.options(w.method),
        # Only the gradient solver draws random numbers.
        seed=lambda w: (STUDY.seed if STUDY.shortcuts.options(w.method)["solver"] == "gradient" else 0),
        code=fingerprint("shortcuts"),
    message:
        "Fitting {wildcards.method} of {wildcards.model} on {wildcards.corpus}"
    script:
        "../scripts/shortcuts.py"
