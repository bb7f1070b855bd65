from onejump.base.job import job

with job(snakemake) as run:
    from onejump.experiments.joint_optimisation import compare_tuned

    run(compare_tuned)
