from onejump.base.job import job

with job(snakemake) as run:
    from onejump.data.labelled import build_labelled

    run(build_labelled)
