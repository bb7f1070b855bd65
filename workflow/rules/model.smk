rule weights:
    # Of no study in particular: all studies of one GGUF file share what is unpacked here.
    input:
        gguf=lambda w: GGUF_FILES[w.gguf],
    output:
        folder=directory("resources/weights/{gguf}"),
    log:
        "resources/logs/weights/{gguf}.log",
    benchmark:
        "resources/benchmarks/weights/{gguf}.tsv"
    wildcard_constraints:
        gguf="|".join(map(re.escape, GGUF_FILES)),
    conda:
        ENVIRONMENT
    resources:
        mem_mb=unpacking_mb,
        runtime=60,
    params:
        code=fingerprint("models.loading"),
    message:
        "Unpacking the GGUF file {input}"
    script:
        f"{SCRIPTS}/weights.py"


rule model:
    input:
        weights=unpacked,
        files=folder_of_model,
    output:
        description=f"{RESULTS}/{{model}}/model.json",
        head=f"{RESULTS}/{{model}}/head.safetensors",
    log:
        f"{RESULTS}/logs/model/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/model/{{model}}.tsv"
    conda:
        ENVIRONMENT
    threads: MOST_THREADS
    resources:
        mem_mb=loading_mb,
        runtime=120,
    params:
        **{key: option_of_model(key) for key in HOW_LOADED},
        source=lambda w: STUDY.models[w.model].folder or STUDY.models[w.model].hub,
        content=lambda w: content_of(*files_of_model(w.model)),
        code=fingerprint("models.model_stage"),
    message:
        "Checking {wildcards.model}: blocks, final norm, head"
    script:
        f"{SCRIPTS}/model.py"
