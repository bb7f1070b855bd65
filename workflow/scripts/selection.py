from onejump.base.job import job

with job(snakemake):
    from pathlib import Path

    from onejump.scoring.selection import select_jump

    select_jump(
        Path(snakemake.output[0]),
        Path(snakemake.input[0]),
        method=snakemake.params.method,
        metric=snakemake.params.metric,
    )
