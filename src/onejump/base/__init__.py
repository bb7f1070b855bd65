"""What every other package of onejump uses: errors, files, devices, jobs, code fingerprints."""
