from onejump.base.job import job

with job(snakemake) as run:
    from onejump.experiments.sub_module_activations import extract_part

    run(extract_part)
