from onejump.base.job import job

with job(snakemake) as run:
    from onejump.scoring.notes import write_notes

    run(write_notes)
