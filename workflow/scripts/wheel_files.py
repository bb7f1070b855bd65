from onejump.base.job import job

with job(snakemake) as run:
    from onejump.base.fetch import fetch_files_from_wheel

    run(fetch_files_from_wheel)
