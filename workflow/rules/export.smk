from onejump.study.export import EXPORTABLE

# Figures for the model card, in this order, as far as the study draws them.
ON_THE_CARD = [figure for figure in ("selected", "methods", "early-exit") if figure in DRAWN]


rule export:
    input:
        description=f"{RESULTS}/{{model}}/model.json",
        head=f"{RESULTS}/{{model}}/head.safetensors",
        shortcuts=kept_shortcuts_of,
        selection=selection_of,
        evaluation=f"{PAIR}/evaluation.parquet",
        parameters=f"{PAIR}/parameters.parquet",
        calibration=f"{PAIR}/calibration/{{method}}.json" if STUDY.export.targets else [],
        figures=[f"{PAIR}/figures/{figure}.png" for figure in ON_THE_CARD],
    output:
        folder=directory(f"{PAIR}/export/{{method}}"),
    log:
        f"{PAIR}/logs/export/{{method}}.log",
    wildcard_constraints:
        method="|".join(EXPORTABLE),
    localrule: True
    conda:
        ENVIRONMENT
    params:
        study=STUDY.study,
        license=STUDY.export.license,
        fitted_again=lambda w: bool(STUDY.export.targets) and is_fitted_again(STUDY.fitted_as(w.method)),
        code=code_with_kind("runtime.export"),
    message:
        "Keeping the jump {wildcards.method} of {wildcards.model} on {wildcards.corpus}"
    script:
        f"{SCRIPTS}/export.py"
