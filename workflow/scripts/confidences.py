from onejump.job import job

with job(snakemake):
    from pathlib import Path

    from onejump.early_exit import measure_confidences

    shortcuts, selection = snakemake.input.get("shortcuts"), snakemake.input.get("selection")
    corpus = snakemake.input.get("corpus")
    measure_confidences(
        Path(snakemake.output[0]),
        [Path(shard) for shard in snakemake.input.shards],
        Path(snakemake.input.head),
        method=snakemake.wildcards.method,
        shortcuts=Path(shortcuts) if shortcuts else None,
        selection=Path(selection) if selection else None,
        corpus=Path(corpus) if corpus else None,
        held_out=snakemake.params.get("held_out"),
        seed=snakemake.params.get("seed", 0),
        device=snakemake.config["compute"]["device"],
    )
