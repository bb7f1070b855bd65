from onejump.base.job import job

with job(snakemake):
    from pathlib import Path

    from onejump.scoring.collection import collect

    collect(Path(snakemake.output[0]), [Path(table) for table in snakemake.input])
