from onejump.base.job import job

with job(snakemake):
    from pathlib import Path

    from onejump.data.document_roles import assign_documents

    assign_documents(
        Path(snakemake.output[0]),
        Path(snakemake.input[0]),
        seed=snakemake.params.seed,
        needed=snakemake.config["needed_roles"],
        **snakemake.params.parts,
    )
