from onejump.base.job import job

with job(snakemake) as run:
    from onejump.experiments.gates import compare_gates

    run(compare_gates)
