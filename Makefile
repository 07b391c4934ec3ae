# Every target sets itself up: it creates .venv on a machine that has nothing but Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

setup: .venv/ready ## make the environment in .venv

run: .venv/ready ## the main job: SeqFT on the embedded benchmark; ARGS="strategy=… hft=true seed=2"
	$(BIN)/python -m trace_cl $(ARGS)

results: .venv/ready ## the README's table: seven methods, three seeds each, and what they came to
	$(BIN)/python -m trace_cl -m strategy=seqft,gem,replay hft=false,true seed=1,2,3
	$(BIN)/python -m trace_cl -m strategy=lora_seqft seed=1,2,3
	$(BIN)/python -m trace_cl.results

bench: .venv/ready ## speed of training and scoring, as ratios; ARGS="benchmark=trace benchmark.max_test=20"
	$(BIN)/python benchmarks/speed.py $(ARGS)

test: .venv/ready ## the tests; ARGS="-k name"
	$(BIN)/python -m pytest $(ARGS)

lint: .venv/ready ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: help setup run results bench test lint
