# What every level says of the prompts that the study names: the table of the figure "lens", and a page.
LENS = {method: STUDY.fitted_as(method) for method in STUDY.looked_through()}
LENS_KINDS = [kind for kind in dict.fromkeys(LENS.values()) if FACTS[kind].fitted_by]
LENS_OPTIONS = STUDY.figures.options("lens") if STUDY.figures.lens else {}


rule lens:
    input:
        description=f"{RESULTS}/{{model}}/model.json",
        weights=ancient(unpacked),
        shortcuts=[f"{PAIR}/shortcuts/{kind}" for kind in LENS_KINDS],
        selections=sorted(f"{PAIR}/{SELECTED[method].selection}" for method in LENS if method in SELECTED),
    output:
        table=f"{PAIR}/lens.parquet",
        page=report(
            f"{PAIR}/lens.html",
            caption="../report/lens.rst",
            category="{model}",
            subcategory="{corpus}",
            labels={"figure": "lens, interactive"},
        ),
    log:
        f"{PAIR}/logs/lens.log",
    benchmark:
        f"{PAIR}/benchmarks/lens.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of(lens_cost_of)
    resources:
        **asked_of_the_site(lens_cost_of, "lens"),
    params:
        methods=LENS,
        prompts=LENS_OPTIONS.get("prompts"),
        targets=LENS_OPTIONS.get("targets"),
        statistic=LENS_OPTIONS.get("statistic"),
        code=code_with_kinds("lens.stage", ["identity", *LENS_KINDS]),
    message:
        "What each level says of the study's prompts, {wildcards.model} on {wildcards.corpus}"
    script:
        f"{SCRIPTS}/lens.py"
