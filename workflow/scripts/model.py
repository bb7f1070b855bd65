from onejump.base.job import job

with job(snakemake):
    from pathlib import Path

    from onejump.models.loading import describe

    model, weights = snakemake.params.model, snakemake.input.get("weights")
    describe(
        Path(snakemake.output.description),
        Path(snakemake.output.head),
        source=weights or model["folder"] or model["hub"],
        revision=model["revision"],
        dtype=model["dtype"],
        trust_remote_code=model["trust_remote_code"],
        modules=model["modules"],
        allow_pickle=model["allow_pickle"],
        device=snakemake.config["compute"]["device"],
        device_map=snakemake.config["compute"]["device_map"],
    )
