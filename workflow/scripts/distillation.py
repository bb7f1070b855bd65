from onejump.base.job import job

with job(snakemake) as run:
    from onejump.fitting.distillation import distil

    run(distil)
