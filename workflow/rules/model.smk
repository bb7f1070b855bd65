rule weights:
    input:
        gguf_file,
    output:
        directory(f"{RESULTS}/{{model}}/weights"),
    log:
        f"{RESULTS}/logs/weights/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/weights/{{model}}.tsv"
    conda:
        "../../envs/onejump.yaml"
    resources:
        mem_mb=loading_mb,
        runtime=60,
    message:
        "Unpacking the GGUF file of {wildcards.model}"
    script:
        "../scripts/weights.py"


rule model:
    input:
        unpacked,
    output:
        model=f"{RESULTS}/{{model}}/model.json",
        head=f"{RESULTS}/{{model}}/head.safetensors",
    log:
        f"{RESULTS}/logs/model/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/model/{{model}}.tsv"
    conda:
        "../../envs/onejump.yaml"
    threads: 16
    resources:
        mem_mb=loading_mb,
        runtime=120,
    params:
        model=lambda w: STUDY.models[w.model].model_dump(),
        code=fingerprint("loading"),
    message:
        "Checking {wildcards.model}: blocks, final norm, head"
    script:
        "../scripts/model.py"
