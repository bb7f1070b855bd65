from onejump.base.job import job

with job(snakemake):
    from pathlib import Path

    from onejump.experiments.early_exit import compare_exits

    compare_exits(
        Path(snakemake.output.curves),
        Path(snakemake.output.savings),
        [Path(table) for table in snakemake.input.held_out],
        [Path(table) for table in snakemake.input.validation],
        model=snakemake.wildcards.model,
        corpus=snakemake.wildcards.corpus,
        **snakemake.params.options,
    )
