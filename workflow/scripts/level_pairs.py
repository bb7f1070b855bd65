from onejump.base.job import job

with job(snakemake):
    from pathlib import Path

    from onejump.experiments.level_pairs import measure_level_pairs

    measure_level_pairs(
        Path(snakemake.output[0]),
        [Path(shard) for shard in snakemake.input.training],
        [Path(shard) for shard in snakemake.input.validation],
        documents=Path(snakemake.input.documents),
        methods=snakemake.params.methods,
        rank=snakemake.params.rank,
        model=snakemake.wildcards.model,
        corpus=snakemake.wildcards.corpus,
        device=snakemake.config["compute"]["device"],
    )
