# Every target installs what it needs into .venv first.
PYTHON ?= python3
BIN := .venv/bin
# Most modules of torch and transformers are never imported: setup compiles those that are, once.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help setup quickstart demo-flower experiments site test test-slow coverage mutants lint types arch reference

help: ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) --upgrade pip setuptools
	$(INSTALL) torch
	$(INSTALL) --editable '.[dev,flower,tensorboard]'
	$(BIN)/python -c 'import privfed_dpo.lifecycle'
	@touch $@

setup: .venv/.ready ## install into .venv (constraints.txt pins every version)

quickstart: setup ## the main job: private federated DPO on the embedded task
	$(BIN)/privfed-dpo train configs/quickstart.yaml

demo-flower: setup ## a deployment on Flower on this machine, with nodes that get killed
	OMP_NUM_THREADS=1 $(BIN)/python examples/demo_flower.py

experiments: setup ## the paper's laws, measured: table, figures, pass conditions
	OMP_NUM_THREADS=1 $(BIN)/python -m experiments --out runs/experiments

site: setup ## documentation as a site, in site/: guides, interface, threats, wire
	$(INSTALL) --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

test: setup lint types arch ## everything CI runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-slow: setup ## the longer checks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m slow

coverage: setup ## branch coverage of the quick tests, against its floors (half an hour)
	rm -f .coverage .coverage.*
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -n 2 --dist worksteal -m "not slow"
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --include='accounting/*,secure_agg/*' --fail-under=95
	$(BIN)/coverage report --include='privfed_dpo/*' --fail-under=90

mutants: setup ## plant bugs in the protocol and see that the tests kill each
	$(BIN)/python -m tests.mutants.secure_agg

lint: setup ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## mypy strict on the three packages
	$(BIN)/mypy

arch: setup ## import contracts
	$(BIN)/lint-imports

reference: setup ## rewrite configs/reference.yaml from the configuration tree
	$(BIN)/python -c "from privfed_dpo.config.reference import reference_yaml; print(reference_yaml(), end='')" > configs/reference.yaml
