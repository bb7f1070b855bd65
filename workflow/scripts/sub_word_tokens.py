from onejump.base.job import job

with job(snakemake) as run:
    from onejump.experiments.sub_word_tokens import describe_tokens

    run(describe_tokens)
