from onejump.base.job import job

with job(snakemake) as run:
    from onejump.models.loading import convert_gguf

    run(convert_gguf)
