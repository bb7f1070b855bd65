from onejump.base.job import job

with job(snakemake) as run:
    from onejump.exits.gate_calibration import calibrate_gates

    run(calibrate_gates)
