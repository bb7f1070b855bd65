JOINT = f"{PAIR}/joint-optimisation"


rule level_predictions:
    input:
        shards=shards("validation"),
        head=f"{RESULTS}/{{model}}/head.safetensors",
        documents=documents_of,
        sentences=text_of,
        description=f"{RESULTS}/{{model}}/model.json",
        weights=ancient(unpacked),
    output:
        levels=f"{JOINT}/measured-levels.parquet",
        losses=f"{JOINT}/losses.parquet",
    log:
        f"{PAIR}/logs/level-predictions.log",
    benchmark:
        f"{PAIR}/benchmarks/level-predictions.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of(level_predictions_cost_of)
    resources:
        **asked_of_the_site(level_predictions_cost_of, "level_predictions"),
    params:
        samples=(
            STUDY.experiments.joint_optimisation.sentences if STUDY.experiments.joint_optimisation else None
        ),
        max_tokens=STUDY.activations.max_tokens,
        code=fingerprint("experiments.level_predictions"),
    message:
        "Predictions of all levels of {wildcards.model} on {wildcards.corpus}"
    script:
        f"{SCRIPTS}/level_predictions.py"


rule joint_optimisation:
    input:
        measured_levels=of_family("joint-optimisation/measured-levels.parquet"),
        losses=of_family("joint-optimisation/losses.parquet"),
        held_out=of_family("early-exit/held-out/identity.parquet"),
        validation=of_family("early-exit/validation/identity.parquet"),
    output:
        comparison=f"{JOINT}/comparison.parquet",
        levels=f"{JOINT}/levels.parquet",
    log:
        f"{PAIR}/logs/joint-optimisation.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        names=lambda w: family_of(w.model),
        tuned=lambda w: {
            name: STUDY.models[name].tuned.model_dump()
            for name in family_of(w.model)
            if STUDY.models[name].tuned
        },
        targets=STUDY.experiments.joint_optimisation.targets if STUDY.experiments.joint_optimisation else None,
        code=fingerprint("experiments.joint_optimisation"),
    message:
        "{wildcards.model} and the models tuned from the same one, on {wildcards.corpus}"
    script:
        f"{SCRIPTS}/joint_optimisation.py"
