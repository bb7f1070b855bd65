from onejump.base.job import job

with job(snakemake) as run:
    from onejump.data.document_roles import assign_documents

    run(assign_documents)
