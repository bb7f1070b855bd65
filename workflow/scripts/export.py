from onejump.base.job import job

with job(snakemake) as run:
    from onejump.runtime.export import export_jump

    run(export_jump)
