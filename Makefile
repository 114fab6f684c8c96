# Three words run everything: `make run` opens the page (`make real` with a real model), `make test` runs the tests, `make check` lints and types.
# `make test-slow` runs the rest: whole trainings, killed processes, the browser, mergekit and trl beside us. `make coverage` is `make test` with coverage.
# `make bench` measures every claim of docs/performance.md, in about ten minutes; ARGS="--size 1.2B" at the size of the targets.
# Each makes what it needs first: .venv with the versions of constraints.txt, the oracle's environment, a browser.

# The first that runs and is new enough: a version manager may put names on the path that only print an error.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
  $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
# Two torch threads beside another busy process collapse (4,576 -> 320 tokens/s measured); waiting must not spin.
export OMP_WAIT_POLICY ?= PASSIVE
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export GRADIO_ANALYTICS_ENABLED = False
# Where the environment sets it, every process compiles every module, and pytest rewrites every test file, anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run real test coverage test-slow check format bench demo constraints clean

run: .venv/made
	$(BIN)/python app.py $(ARGS)

# SmolLM2-135M-Instruct with the adapters of assets/real; the base (93 MB) is fetched and converted once.
real: .venv/made-real
	folder=$$($(BIN)/dem real path) && $(BIN)/dem ui --demo "$$folder" $(ARGS)

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

# Without --no-loadscope-reorder files would be ordered by their number of tests: the long ones of
# the browser, which have few, would come last and leave one process idle.
test: .venv/made-test
	$(PYTEST) -m "not slow and not oracle" $(ARGS)

# The same tests, which must reach every line and branch of merging; counting them takes half as long again.
coverage: .venv/made-test
	$(PYTEST) -m "not slow and not oracle" --cov=merging --cov-report=term --cov-fail-under=100 $(ARGS)

test-slow: .venv/made-test .venv-mergekit/made .venv-trl/made .venv-influence/made .venv/made-browser
	$(PYTEST) -m "slow or oracle" --durations=40 $(ARGS)

check: .venv/made-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/made-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/made-browser .venv-mergekit/made
	$(BIN)/python -m benchmarks $(ARGS)

demo: .venv/made
	$(BIN)/dem demo build

.venv/made: pyproject.toml setup.py constraints.txt merging/engine/kernel.c merging/methods/loops.c
	@test -n "$(PYTHON)" || { \
	  echo "Python 3.11 or newer is needed and none was found. Name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/made-real: .venv/made
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[real]'
	touch $@

.venv/made-test: .venv/made
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

# mergekit is compared with, never imported: it lives in an environment of its own.
.venv-mergekit/made: constraints.txt
	test -x .venv-mergekit/bin/python || $(PYTHON) -m venv .venv-mergekit
	.venv-mergekit/bin/pip install --quiet --constraint constraints.txt mergekit==0.1.5
	touch $@

# trl is compared with, never imported: tests read its chat templates, benchmarks run its trainer.
.venv-trl/made: constraints.txt
	test -x .venv-trl/bin/python || $(PYTHON) -m venv .venv-trl
	.venv-trl/bin/pip install --quiet --constraint constraints.txt trl==1.16.0
	touch $@

# kronfluence, bergson and traker are compared with, never imported. They see the packages of .venv,
# and are installed without their dependencies, which would bring another torch.
.venv-influence/made: .venv/made
	test -x .venv-influence/bin/python || $(PYTHON) -m venv .venv-influence
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
	  "$$(.venv-influence/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/packages_of_venv.pth"
	.venv-influence/bin/pip install --quiet --no-deps kronfluence==1.0.1 bergson==2.5.1 traker==0.3.2 einconv==0.1.0 \
	  einops==0.8.2 opt-einsum==3.4.0 simple-parsing==0.1.9 docstring-parser==0.18.0 petname==2.9 ml_dtypes==0.6.0 natsort==8.4.0 \
	  torchopt==0.7.3 optree==0.20.0
	touch $@

# fusion_bench is compared with in the README's table only (python -m benchmarks.other_tools).
.venv-fusion-bench/made: constraints.txt
	test -x .venv-fusion-bench/bin/python || $(PYTHON) -m venv .venv-fusion-bench
	.venv-fusion-bench/bin/pip install --quiet --constraint constraints.txt fusion-bench==0.2.33
	touch $@

.venv/made-browser: .venv/made-test tests/browser.sh
	sh tests/browser.sh
	touch $@

# The exact versions that both commands install. The local tag of a CPU build of torch is cut off: it names one index.
constraints:
	$(BIN)/pip freeze --exclude-editable | sed 's/+cpu//' | LC_ALL=C sort -f > constraints.txt

clean:
	rm -rf .venv .venv-mergekit .venv-trl .venv-influence .venv-fusion-bench
