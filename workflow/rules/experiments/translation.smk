TRANSLATED = {method: STUDY.fitted_as(method) for method in STUDY.translated()}
TRANSLATION = STUDY.experiments.options("translation") if "translation" in EXPERIMENTS else {}


TRANSLATION_INPUT = {
    "description": f"{RESULTS}/{{model}}/model.json",
    "weights": ancient(unpacked),
    "sentences": text_of,
    "shortcuts": [
        f"{PAIR}/shortcuts/{kind}" for kind in dict.fromkeys(TRANSLATED.values()) if FACTS[kind].fitted_by
    ],
    "selections": sorted(
        f"{PAIR}/{SELECTED[method].selection}" for method in TRANSLATED if method in SELECTED
    ),
}


rule translation:
    input:
        **TRANSLATION_INPUT,
    output:
        table=f"{PAIR}/translation.parquet",
    log:
        f"{PAIR}/logs/translation.log",
    benchmark:
        f"{PAIR}/benchmarks/translation.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of(translation_cost_of)
    resources:
        **asked_of_the_site(translation_cost_of, "translation"),
    params:
        methods=TRANSLATED,
        pairs=TRANSLATION.get("pairs", 0),
        new_tokens=TRANSLATION.get("new_tokens", 0),
        code=code_with_kinds("experiments.translation", ["identity", *TRANSLATED.values()]),
    message:
        "Translating with exits, {wildcards.model} on {wildcards.corpus}"
    script:
        f"{SCRIPTS}/translation.py"


rule translation_by_gates:
    input:
        **TRANSLATION_INPUT,
    output:
        table=f"{PAIR}/translation-gates.parquet",
    log:
        f"{PAIR}/logs/translation-gates.log",
    benchmark:
        f"{PAIR}/benchmarks/translation-gates.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of(translation_by_gates_cost_of)
    resources:
        **asked_of_the_site(translation_by_gates_cost_of, "translation_by_gates"),
    params:
        methods=TRANSLATED,
        pairs=TRANSLATION.get("pairs", 0),
        new_tokens=TRANSLATION.get("new_tokens", 0),
        thresholds=TRANSLATION.get("thresholds", []),
        code=code_with_kinds("runtime.translation", ["identity", *TRANSLATED.values()]),
    message:
        "Translating with exits by gates, {wildcards.model} on {wildcards.corpus}"
    script:
        f"{SCRIPTS}/translation_by_gates.py"
