from onejump.base.job import job

with job(snakemake) as run:
    from onejump.experiments.sub_module_maps import fit_part

    run(fit_part)
