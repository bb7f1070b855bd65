from onejump.base.job import job

with job(snakemake) as run:
    from onejump.data.generated_texts import collect_texts

    run(collect_texts)
