from onejump.base.job import job

with job(snakemake) as run:
    from onejump.runtime.generated_corpus import generate_texts

    run(generate_texts)
