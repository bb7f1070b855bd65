from onejump.base.job import job

with job(snakemake) as run:
    from onejump.figures.drawing import draw

    run(draw)
