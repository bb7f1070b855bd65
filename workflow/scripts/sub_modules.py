from onejump.base.job import job

with job(snakemake):
    from pathlib import Path

    from onejump.experiments.sub_modules import evaluate_parts

    weights = snakemake.input.get("weights")
    evaluate_parts(
        Path(snakemake.output[0]),
        dict(zip(snakemake.params.parts, map(Path, snakemake.input.maps), strict=True)),
        model=Path(snakemake.input.description),
        corpus=Path(snakemake.input.corpus),
        seed=snakemake.params.seed,
        options=snakemake.params.options,
        compute=snakemake.config["compute"],
        weights=Path(weights) if weights else None,
        precision_at=snakemake.params.precision_at,
        step=snakemake.params.step,
        samples=snakemake.params.samples,
        model_name=snakemake.wildcards.model,
        corpus_name=snakemake.wildcards.corpus,
    )
