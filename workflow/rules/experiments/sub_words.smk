rule sub_word_tokens:
    input:
        description=f"{RESULTS}/{{model}}/model.json",
        # The digest in model.json tells whether they are other ones.
        weights=ancient(unpacked),
        sentences=text_of,
    output:
        table=f"{PAIR}/sub-words/tokens.parquet",
    log:
        f"{PAIR}/logs/sub-word-tokens.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=fingerprint("experiments.sub_word_tokens"),
    message:
        "Pieces of words of {wildcards.model}, and how often {wildcards.corpus} has them"
    script:
        f"{SCRIPTS}/sub_word_tokens.py"


rule sub_word_tags:
    input:
        tokens=f"{PAIR}/sub-words/tokens.parquet",
        description=f"{RESULTS}/{{model}}/model.json",
        weights=ancient(unpacked),
        sentences=text_of,
    output:
        table=f"{PAIR}/sub-words/tags.parquet",
    log:
        f"{PAIR}/logs/sub-word-tags.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=fingerprint("experiments.sub_word_tags"),
    message:
        "Parts of speech in {wildcards.corpus}, by the tokens of {wildcards.model}"
    script:
        f"{SCRIPTS}/sub_word_tags.py"


rule sub_words:
    input:
        tokens=f"{PAIR}/sub-words/tokens.parquet",
        description=f"{RESULTS}/{{model}}/model.json",
        tags=(
            f"{PAIR}/sub-words/tags.parquet"
            if STUDY.experiments.sub_words and STUDY.experiments.sub_words.parts_of_speech
            else []
        ),
        training=shards("training"),
        shards=shards("validation"),
        held_out=[f"{EXIT}/held-out/{method}.parquet" for method in STUDY.cut_in_pieces()],
        validation=[f"{EXIT}/validation/{method}.parquet" for method in STUDY.cut_in_pieces()],
    output:
        levels=f"{PAIR}/sub-words/levels.parquet",
        gates=f"{PAIR}/sub-words/gates.parquet",
    log:
        f"{PAIR}/logs/sub-words.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        options=(
            STUDY.experiments.sub_words.model_dump(exclude={"methods", "parts_of_speech"})
            if STUDY.experiments.sub_words
            else {}
        ),
        code=fingerprint("experiments.sub_words"),
    message:
        "Exits by pieces of words, {wildcards.model} on {wildcards.corpus}"
    script:
        f"{SCRIPTS}/sub_words.py"
