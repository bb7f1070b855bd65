rule gates:
    input:
        held_out=[f"{EXIT}/held-out/{method}.parquet" for method in STUDY.gated()],
        validation=[f"{EXIT}/validation/{method}.parquet" for method in STUDY.gated()],
    output:
        curves=f"{PAIR}/gates/curves.parquet",
        outcomes=f"{PAIR}/gates/outcomes.parquet",
    log:
        f"{PAIR}/logs/gates.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        options=STUDY.experiments.gates.model_dump(exclude={"methods"}) if STUDY.experiments.gates else {},
        code=fingerprint("experiments.gates"),
    message:
        "Gates beside the oracle, {wildcards.model} on {wildcards.corpus}"
    script:
        f"{SCRIPTS}/gates.py"
