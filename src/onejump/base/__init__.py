"""What every part of the library stands on: errors, files, devices, jobs, code fingerprints."""
