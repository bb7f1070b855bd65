from onejump.base.job import job

with job(snakemake):
    from pathlib import Path

    from onejump.figures.drawing import draw

    draw(
        snakemake.params.figure,
        [Path(output) for output in snakemake.output],
        **{name: Path(path) for name, path in snakemake.input.items()},
        options=snakemake.params.options,
    )
