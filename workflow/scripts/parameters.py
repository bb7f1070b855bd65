from onejump.base.job import job

with job(snakemake):
    from pathlib import Path

    from onejump.scoring.parameters import count_parameters

    count_parameters(
        Path(snakemake.output[0]),
        dict(zip(snakemake.params.methods, map(Path, snakemake.input.shortcuts), strict=True)),
        Path(snakemake.input.selection),
        model=snakemake.wildcards.model,
        corpus=snakemake.wildcards.corpus,
    )
