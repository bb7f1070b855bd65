from onejump.base.job import job

with job(snakemake) as run:
    from onejump.exits.measuring import measure_confidences

    run(measure_confidences)
