# `make` runs the default study, `make test` the tests; each does all its own set-up.
# Another study: make STUDY=studies/full.yaml

STUDY ?= config.yaml
PYTHON ?= python3
BIN := .venv/bin
SNAKEMAKE = $(BIN)/snakemake --configfile "$(STUDY)"

.PHONY: run report test test-app test-pythons test-slurm bench check docs clean
.DEFAULT_GOAL := run

run: .venv/installed
	$(BIN)/onejump run "$(STUDY)"
	@$(MAKE) --no-print-directory report
	@$(BIN)/onejump summary "$(STUDY)"

report: .venv/installed
	@name=$$($(BIN)/onejump check --name "$(STUDY)") && set -x && $(SNAKEMAKE) --report "results/$$name/report.html"

test: .venv/installed-dev check
	$(SNAKEMAKE) --quiet all -- results/default/smollm2-135m/model.json results/default/corpora/wikipedia-en.parquet
	$(BIN)/python -m pytest -n 2 --dist loadgroup

# Quick checks with each other version of Python that is here, on PATH or by pyenv: every file is compiled, and a study
# is read and checked. All tests with one of them: make clean && make test PYTHON=python3.13
test-pythons:
	@for version in 3.12 3.13 3.14; do \
	  for python in python$$version "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$version.*/bin/python none; do \
	    if $$python -c "" 2> /dev/null; then break; fi; done; \
	  if [ $$python = none ]; then echo "Python $$version: not here"; continue; fi; \
	  bin=.venv-$$version/bin; \
	  $$python -m venv .venv-$$version && $$bin/python -m pip install --quiet $(STUDY_NEEDS) \
	  && $$bin/python -m compileall -q src workflow/scripts tests benchmarks examples \
	  && PYTHONPATH=src $$bin/python -c "from onejump.cli.main import main; main()" check studies/papers.yaml || exit 1; \
	  echo "Python $$version: files compile, a study is checked"; done

STUDY_NEEDS := $(shell grep -E "^(click|langcodes|pydantic|PyYAML)==" envs/requirements.txt)

SLURM := slurmctld slurmd slurm-client munge rsync
# A cluster of its own on this host: Debian's Slurm, installed where it is missing.
test-slurm: .venv/installed-dev
	@missing=; for program in slurmctld slurmd sbatch munged rsync; do \
	  command -v $$program > /dev/null || missing="$$missing $$program"; done; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(SLURM); \
	else echo "Missing:$$missing. As root on Debian or Ubuntu: apt-get install $(SLURM)"; exit 1; fi
	$(BIN)/python -m pytest -m slurm tests/workflow/test_slurm.py

# The local page in Debian's chromium, which is installed where it is missing. `make test` runs these tests too, where
# chromium is there, and skips them elsewhere.
test-app: .venv/installed-dev
	@if command -v chromium > /dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; \
	else echo "Missing: chromium. As root on Debian or Ubuntu: apt-get install chromium"; exit 1; fi
	$(BIN)/python -m pytest tests/app

# Ratios in one run, each with the bar that it has to hold: more than an hour on two cores. gpu.py is run on a GPU, by
# itself; measure.py is what the others share.
BENCHMARKS := $(filter-out %/gpu.py %/gpu_runtime.py %/measure.py,$(wildcard benchmarks/*.py))
bench: .venv/installed-dev
	$(BIN)/snakemake --configfile config.yaml
	@for file in $(BENCHMARKS); do $(BIN)/python $$file || exit 1; done

check: .venv/installed-dev docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

# The pages of docs/ as a site: docs/_build/index.html. A warning, such as a link to nowhere, is an error.
docs: .venv/installed-dev
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build

clean:
	rm -rf .venv .venv-* .snakemake results resources docs/_build

.venv/installed: envs/requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r envs/requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps -e .
	@touch $@

.venv/installed-dev: .venv/installed envs/requirements-dev.txt
	$(BIN)/python -m pip install --quiet -r envs/requirements-dev.txt
	@touch $@
