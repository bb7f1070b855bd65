from onejump.base.job import job

with job(snakemake) as run:
    from onejump.scoring.scores import score_jumps

    run(score_jumps)
