from onejump.base.job import job

with job(snakemake):
    from pathlib import Path

    from onejump.experiments.sub_module_activations import extract_part

    weights = snakemake.input.get("weights")
    extract_part(
        Path(snakemake.output[0]),
        model=Path(snakemake.input.description),
        corpus=Path(snakemake.input.corpus),
        split="training",
        shard=int(snakemake.wildcards.shard),
        shards=snakemake.params.shards,
        seed=snakemake.params.seed,
        options=snakemake.params.options,
        compute=snakemake.config["compute"],
        weights=Path(weights) if weights else None,
        part=snakemake.wildcards.part,
    )
