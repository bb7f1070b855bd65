from onejump.base.job import job

with job(snakemake) as run:
    from onejump.fitting.shortcuts import fit_shortcuts

    run(fit_shortcuts)
