# Every target sets itself up: it creates .venv on a machine that has nothing but Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-zA-Z0-9%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

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

report: .venv/ready ## all runs on one page, runs/report.html; ARGS="--runs DIR --examples 20"
	$(BIN)/python -m trace_cl.page $(ARGS)

bench: .venv/ready ## speed of training and scoring, as ratios; ARGS="benchmark=trace benchmark.max_test=20"
	$(BIN)/python benchmarks/speed.py $(ARGS)

test: .venv/ready ## the tests; ARGS="-k name"
	$(BIN)/python -m pytest $(ARGS)

lint: .venv/ready ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The paper's tables. A table first makes the runs behind it: what is complete is skipped, what was broken off goes on,
# and what this machine cannot run says why, so that the published side is rendered all the same.
MODEL ?=
BENCHMARK ?=
SEEDS ?= 1
SINGLE := 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42
RUNS_3 := 29 30 31 32 33 34 35 36 37 38 39 40 41 42
RUNS_4 := 27 28 29 30
RUNS_7 := 24 25 26 30
# With a model of one's own the 13B tables rest on the same runs as the 7B ones.
SAME_36 := 29
SAME_37 := 30
SAME_38 := 31
SAME_39 := 32
SAME_40 := 33
SAME_41 := 34
SAME_42 := 35
run_behind = $(if $(MODEL),$(or $(SAME_$(1)),$(1)),$(1))
runs_behind = $(foreach seed,$(SEEDS),$(foreach table,$(1),run-$(call run_behind,$(table))-$(seed)))
TABLES := $(addprefix table,3 4 7 $(SINGLE))

run-%: .venv/ready
	-$(BIN)/python -m trace_cl experiment=table$(firstword $(subst -, ,$*)) seed=$(lastword $(subst -, ,$*)) \
		$(if $(MODEL),model=$(MODEL)) $(if $(BENCHMARK),benchmark=$(BENCHMARK))

define table
table$(1): .venv/ready $$(call runs_behind,$$(or $$(RUNS_$(1)),$(1)))
	$$(BIN)/python -m trace_cl.tables $(1) $$(if $$(MODEL),--model $$(MODEL)) $$(if $$(BENCHMARK),--benchmark $$(BENCHMARK))
endef
$(foreach number,3 4 7 $(SINGLE),$(eval $(call table,$(number))))

table%: ## a table of the paper (3, 4, 7, 24 to 42): table3 MODEL=tiny SEEDS="1 2 3"
	$(error there is no table $*: choose 3, 4, 7, or 24 to 42)

tables: table3 $(addprefix table,$(filter-out 24 25 26 27 28,$(SINGLE))) ## Tables 3 and 29 to 42

.PHONY: help setup run results report bench test lint tables $(TABLES)
