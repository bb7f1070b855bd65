rule shortcuts:
    input:
        shards("training"),
    output:
        directory(f"{PAIR}/shortcuts/{{method}}"),
    log:
        f"{PAIR}/logs/shortcuts/{{method}}.log",
    benchmark:
        f"{PAIR}/benchmarks/shortcuts/{{method}}.tsv"
    wildcard_constraints:
        method="|".join(FITTED),
    conda:
        "../../envs/onejump.yaml"
    threads: 16
    params:
        options=lambda w: STUDY.shortcuts.options(w.method),
        # Only the gradient solver draws random numbers.
        seed=lambda w: (STUDY.seed if STUDY.shortcuts.options(w.method)["solver"] == "gradient" else 0),
        code=fingerprint("shortcuts"),
    message:
        "Fitting {wildcards.method} of {wildcards.model} on {wildcards.corpus}"
    script:
        "../scripts/shortcuts.py"
