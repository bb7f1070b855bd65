from onejump.study.kinds import REGRESSIONS


# What to know about the numbers of a model and a corpus, for the report's front page.
rule notes:
    input:
        summary=summary_of,
        description=ancient(f"{RESULTS}/{{model}}/model.json"),
        selection=f"{PAIR}/selection.json",
        evaluation=f"{PAIR}/evaluation.parquet",
        savings=f"{PAIR}/early-exit/savings.parquet" if STUDY.experiments.early_exit else [],
    output:
        notes=f"{PAIR}/notes.txt",
    log:
        f"{PAIR}/logs/notes.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        regressions=REGRESSIONS,
        code=fingerprint("scoring.notes"),
    message:
        "Notes on the results of {wildcards.model} on {wildcards.corpus}"
    script:
        f"{SCRIPTS}/notes.py"
