from onejump.base.job import job

with job(snakemake) as run:
    from onejump.scoring.selection import select_jump

    run(select_jump)
