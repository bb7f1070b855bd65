# Models that begin with random weights. The folder takes the place of weights that are unpacked.


rule untrained:
    input:
        sentences=lambda w: f"{RESULTS}/corpora/{untrained(w).corpus}.parquet",
    output:
        folder=directory(f"{RESULTS}/{{model}}/weights"),
    log:
        f"{RESULTS}/logs/untrained/{{model}}.log",
    wildcard_constraints:
        model=any_of(name for name, model in STUDY.models.items() if model.untrained),
    localrule: True
    conda:
        ENVIRONMENT
    params:
        options=lambda w: untrained(w).model_dump(exclude={"corpus", "seed"}),
        seed=lambda w: STUDY.seed if untrained(w).seed is None else untrained(w).seed,
        code=fingerprint("models.untrained"),
    message:
        "Making {wildcards.model} with random weights"
    script:
        f"{SCRIPTS}/untrained.py"
