from onejump.base.job import job

with job(snakemake) as run:
    from onejump.experiments.sub_layers import measure_sub_layers

    run(measure_sub_layers)
