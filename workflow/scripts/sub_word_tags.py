from onejump.base.job import job

with job(snakemake) as run:
    from onejump.experiments.sub_word_tags import tag_tokens

    run(tag_tokens)
