# Every target sets itself up: it creates .venv on a machine that has nothing but Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-zA-Z0-9%_-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

setup: .venv/ready ## make the environment in .venv

run: .venv/ready ## the main job: SeqFT on the embedded benchmark; ARGS="strategy=… hft=true seed=2"
	$(BIN)/python -m trace_cl $(ARGS)

# Every method once, and in halves those that the HFT paper halves.
HALVED := seqft,gem,replay
WHOLE := joint,single_task,zero_shot,icl,ewc,lwf,l2sp,mixout,agem,ogd,der,mbpa,lfpt5,lora_seqft,o_lora,tree_lora,adalora,qlora,osf,$\
	progressive_prompts,l2p,p_tuning,lisa,autofreeze,dynamic_freezing,merge

results: .venv/ready ## every method, three seeds each, and their table; JOBS=2
	$(BIN)/python -m trace_cl -m strategy=$(HALVED) hft=false,true seed=1,2,3$(side_by_side); made=$$?; \
	$(BIN)/python -m trace_cl -m strategy=$(WHOLE) seed=1,2,3$(side_by_side) || made=$$?; \
	$(BIN)/python -m trace_cl.results || made=$$?; exit $$made

report: .venv/ready ## all runs on one page, runs/report.html; ARGS="--runs DIR --examples 20"
	$(BIN)/python -m trace_cl.page $(ARGS)

bench: .venv/ready ## speed of training and scoring, as ratios, and how rounds grow; ARGS="benchmark=trace benchmark.max_test=20"
	$(BIN)/python benchmarks/training.py $(ARGS)
	$(BIN)/python benchmarks/training.py --model tiny $(ARGS)
	$(BIN)/python benchmarks/scoring.py $(ARGS)
	$(BIN)/python benchmarks/gem.py
	$(BIN)/python benchmarks/growth.py

BENCH_SCALE ?= large
bench-gpu: .venv/ready ## what a GPU comes to, in nine minutes; BENCH_SCALE=small where there is none; ARGS="benchmark.root=DIR"
	BENCH_SCALE=$(BENCH_SCALE) $(BIN)/python benchmarks/gpu.py $(ARGS)

# A worker a core, with one thread each: the models of the tests gain nothing from a second one, and workers that have
# more threads together than there are cores wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=logical --maxprocesses=8 --dist=worksteal

test: .venv/ready ## the tests; ARGS="-k name"
	$(PYTEST) $(ARGS)

test-methods: .venv/ready ## every method in a whole run, killed and continued
	$(PYTEST) -m methods $(ARGS)

test-trainers: .venv/ready ## HFT in the trainers of transformers and TRL
	$(PYTEST) -m "trainers and not distributed" $(ARGS)

test-distributed: .venv/ready ## what two ranks do, against one device
	$(PYTEST) --dist=loadfile -m "distributed and not whole_grid" $(ARGS)

test-grid: .venv/ready ## the same, with every method under every stage of ZeRO
	$(PYTEST) --dist=loadfile -m distributed $(ARGS)

KILLS ?= 100
test-crash: .venv/ready ## runs killed a hundred times, at each of their writes an error, two starters; KILLS=12 for fewer
	KILLS=$(KILLS) $(PYTEST) tests/crash -m "crash or not crash" $(ARGS)

test-fuzz: .venv/ready ## a hundred thousand mutated files, of a benchmark and of a run
	$(PYTEST) -m fuzz $(ARGS)

lint: .venv/ready ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: .venv/ready ## known vulnerabilities of the pinned versions; AUDIT=required fails where they cannot be looked up
	AUDIT=$(AUDIT) $(PYTHON) .ci/audit.py $(BIN)/pip-audit -r constraints.txt --no-deps --disable-pip -f json $(ARGS)

docs: .venv/ready ## the site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

package: .venv/ready ## the sdist and the wheel in dist/, checked, and tried from an empty folder
	rm -rf build dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python -m pytest tests/test_packaging.py -m package

# The paper's tables. A table is a sweep over the runs behind it (complete ones are skipped, interrupted ones go on), then
# the rendering. What this machine lacks for the runs is said first; where it can make none of them none is started, the
# published side is rendered all the same, and make succeeds. Where a run fails the table is rendered too, but make fails.
MODEL ?=
BENCHMARK ?=
SEEDS ?= 1
JOBS ?= 1
SINGLE := 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42
TABLES := $(addprefix table,3 4 5 7 12 $(SINGLE))
# With a model of one's own the 13B tables rest on the same runs as the 7B ones.
RUNS_3 = 29 30 31 32 33 34 35 $(if $(MODEL),,36 37 38 39 40 41 42)
RUNS_4 = 27 28 29 30
RUNS_5 = 29 30 35 $(addprefix 5-,qlora adalora p_tuning mixout ties_base dare_base ties_previous dare_previous \
	average_previous autofreeze lisa)
RUNS_12 = $(RUNS_3)
RUNS_7 = 24 25 26 30
numbers = $(if $(filter tables,$@),3 $(filter-out 24 25 26 27 28,$(SINGLE)),$(@:table%=%))
runs = $(addprefix table,$(or $(RUNS_$(firstword $(numbers))),$(numbers)))

space := $(subst ,, )
comma := ,
listed = $(subst $(space),$(comma),$(strip $(1)))
setting = $(if $(MODEL), $(1)model$(2)$(MODEL))$(if $(BENCHMARK), $(1)benchmark$(2)$(BENCHMARK))
sweep = experiment=$(call listed,$(runs)) seed=$(call listed,$(SEEDS))$(call setting,,=)
side_by_side = $(if $(filter-out 1,$(JOBS)), hydra/launcher=joblib hydra.launcher.n_jobs=$(JOBS))

$(TABLES) tables: .venv/ready
	if $(BIN)/python -m trace_cl.launch.preflight $(sweep); then \
	$(BIN)/python -m trace_cl -m $(sweep)$(side_by_side); fi; made=$$?; \
	$(if $(filter 12,$(numbers)),$(BIN)/python -m trace_cl.abilities$(call setting,--, ) || made=$$?;) \
	$(foreach table,$(numbers),$(BIN)/python -m trace_cl.tables $(table)$(call setting,--, ) --tried || made=$$?; echo;) exit $$made

# Figure 3b: the runs of Tables 25, 26, 29 and 30, and six shares more.
SHARES := $(addprefix table,25 26 29 30) $(addprefix figure3-,1x0 0x1 1x1 3x2 4x2 3x3)
figure3: runs = $(SHARES)
figure3: .venv/ready ## OP and BWT by the share that learns; MODEL=tiny SEEDS="1 2 3" JOBS=2
	if $(BIN)/python -m trace_cl.launch.preflight $(sweep); then \
	$(BIN)/python -m trace_cl -m $(sweep)$(side_by_side); fi; made=$$?; \
	$(BIN)/python -m trace_cl.figure3$(call setting,--, ) || made=$$?; exit $$made

# Table 10 is of no run: it is measured here, MODEL=bench on a CPU.
table10: .venv/ready ## HFT's time beside full fine-tuning's, by the share that learns; MODEL=bench
	$(BIN)/python benchmarks/table10.py $(if $(MODEL),--model $(MODEL)) $(ARGS)

table_trace: .venv/ready ## what other papers print of TRACE, beside the runs there are; MODEL=tiny
	$(BIN)/python -m trace_cl.tables trace$(call setting,--, )

table%: ## a table of the paper (3, 4, 5, 7, 10, 12, 24 to 42): table3 MODEL=tiny SEEDS="1 2 3" JOBS=2
	$(error there is no table $*: choose 3, 4, 5, 7, 10, 12, or 24 to 42)

tables: ## Tables 3 and 29 to 42

.PHONY: help setup run results report bench bench-gpu test test-methods test-trainers test-distributed test-grid test-crash test-fuzz lint audit docs package tables table_trace table10 figure3 $(TABLES)
