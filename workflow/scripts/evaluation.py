from onejump.base.job import job

with job(snakemake):
    from pathlib import Path

    from onejump.scoring.evaluation import collect

    collect(Path(snakemake.output[0]), [Path(table) for table in snakemake.input])
