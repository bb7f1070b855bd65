# The study's section, or nothing if it has none.
COPIED_STATES = STUDY.experiments.options("copied-states") if "copied-states" in EXPERIMENTS else {}
COPYING = {method: STUDY.fitted_as(method) for method in STUDY.copying()}
COPYING_KINDS = [kind for kind in dict.fromkeys(COPYING.values()) if FACTS[kind].fitted_by]


rule copied_texts:
    input:
        description=f"{RESULTS}/{{model}}/model.json",
        weights=ancient(unpacked),
        sentences=text_of,
        shortcuts=[
            unseen_shortcuts(kind) if COPIED_STATES["targets"] else f"{PAIR}/shortcuts/{kind}"
            for kind in COPYING_KINDS
        ],
        selections=sorted(
            {f"{PAIR}/{SELECTED[method].selection}" for method in COPYING if method in SELECTED}
        ),
        held_out=[
            f"{PAIR}/early-exit/held-out/{method}.parquet" for method in COPYING if COPIED_STATES["targets"]
        ],
    output:
        texts=f"{PAIR}/copied-states/texts.parquet",
    log:
        f"{PAIR}/logs/copied-states/texts.log",
    benchmark:
        f"{PAIR}/benchmarks/copied-states/texts.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of(copied_texts_cost_of)
    resources:
        **asked_of_the_site(copied_texts_cost_of, "copied_texts"),
    params:
        methods=COPYING,
        prompts=COPIED_STATES.get("prompts"),
        prompt_tokens=COPIED_STATES.get("prompt_tokens"),
        chat_template=COPIED_STATES.get("chat_template"),
        new_tokens=COPIED_STATES.get("new_tokens"),
        levels=COPIED_STATES.get("levels"),
        targets=COPIED_STATES.get("targets"),
        thresholds=COPIED_STATES.get("thresholds"),
        checked_from=COPIED_STATES.get("checked_from"),
        step=COPIED_STATES.get("step"),
        code=code_with_kinds("runtime.copied_texts", ["identity", *COPYING_KINDS]),
    message:
        "Generating text with exits, {wildcards.model} on {wildcards.corpus}"
    script:
        f"{SCRIPTS}/copied_texts.py"


rule copied_states:
    input:
        description=f"{RESULTS}/{{model}}/model.json",
        weights=ancient(unpacked),
        texts=f"{PAIR}/copied-states/texts.parquet",
    output:
        table=f"{PAIR}/copied-states.parquet",
    log:
        f"{PAIR}/logs/copied-states/table.log",
    benchmark:
        f"{PAIR}/benchmarks/copied-states/table.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of(copied_states_cost_of)
    resources:
        **asked_of_the_site(copied_states_cost_of, "copied_states"),
    params:
        new_tokens=COPIED_STATES.get("new_tokens"),
        code=fingerprint("experiments.copied_states"),
    message:
        "Reading text on copied keys and values, {wildcards.model} on {wildcards.corpus}"
    script:
        f"{SCRIPTS}/copied_states.py"
