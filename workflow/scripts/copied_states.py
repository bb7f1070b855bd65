from onejump.base.job import job

with job(snakemake) as run:
    from onejump.experiments.copied_states import measure_copied_states

    run(measure_copied_states)
