from onejump.base.job import job

with job(snakemake) as run:
    from onejump.runtime.translation import measure_translation_by_gates

    run(measure_translation_by_gates)
