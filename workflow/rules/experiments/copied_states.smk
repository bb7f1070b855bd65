# The study's section, or nothing if it has none.
COPIED_STATES = STUDY.experiments.options("copied-states") if "copied-states" in EXPERIMENTS else {}


rule copied_texts:
    input:
        description=f"{RESULTS}/{{model}}/model.json",
        weights=ancient(unpacked),
        sentences=text_of,
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
        prompts=COPIED_STATES.get("prompts"),
        prompt_tokens=COPIED_STATES.get("prompt_tokens"),
        chat_template=COPIED_STATES.get("chat_template"),
        new_tokens=COPIED_STATES.get("new_tokens"),
        levels=COPIED_STATES.get("levels"),
        thresholds=COPIED_STATES.get("thresholds"),
        checked_from=COPIED_STATES.get("checked_from"),
        step=COPIED_STATES.get("step"),
        code=fingerprint("runtime.copied_texts"),
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
