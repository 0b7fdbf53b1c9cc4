# stepwell: two commands from a fresh machine. `make` lists them.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PEERS := .venv/.peers

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast optimizer fuzz lint types bench compatibility clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

# torch first and pinned: everything else is then satisfied with the build that is there.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,tools,dev]'
	$(BIN)/python -m compileall -q src  # also where Python is told to write no bytecode: a third of a second per command
	touch $(READY)

# The peers of the bench. One that cannot be installed here has a dash in the tables.
$(PEERS): $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,tools,dev,bench]' \
		&& touch $(PEERS) || echo "not all peers could be installed: those that are missing have a dash"

demo: $(READY) ## compare SGD, AdamW and Lion on real images; writes runs/demo/report.html
	$(BIN)/stepwell compare digits --optimizers sgd,adamw,lion --trials 6 --seeds 3 --jobs 2 --out runs/demo

test: $(READY) lint types ## everything that continuous integration runs
	$(BIN)/python -m pytest -n 2 --dist loadgroup

test-fast: $(READY) ## the tests that take a second or less
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m 'not slow'

optimizer: $(READY) ## NAME=Yogi: print the pages of a new or changed optimizer, and run all that it can break
	$(if $(NAME),,$(error say which: make optimizer NAME=Yogi))
	$(BIN)/python -m tests.contract.matrix $(NAME)
	$(BIN)/stepwell optimizers --markdown > docs/optimizers.md.new && mv docs/optimizers.md.new docs/optimizers.md
	$(MAKE) lint types
	$(BIN)/python -m pytest -n 2 --dist loadgroup --optimizer $(NAME)

fuzz: $(READY) ## 100,000 changed checkpoints and nasty calls, of which `make test` takes a sample
	STEPWELL_FUZZ=full $(BIN)/python -m pytest -n 2 --dist loadgroup tests/engine/test_state_fuzz.py tests/test_nasty_calls.py

lint: $(READY)
	$(BIN)/ruff check src tests bench examples
	$(BIN)/ruff format --check src tests bench examples

types: $(READY)
	$(BIN)/mypy

bench: $(PEERS) ## speed and memory of every optimizer against the best installed peer (half an hour)
	$(BIN)/python bench/step.py $(BENCH)

compatibility: $(PEERS) ## print docs/compatibility.md; TORCH_TESTS=pytorch/test runs torch's own optimizer tests, too
	$(BIN)/python bench/compatibility --write $(if $(TORCH_TESTS),--torch-tests $(TORCH_TESTS))

clean: ## remove the environment and what runs left behind
	rm -rf .venv runs .pytest_cache .ruff_cache .mypy_cache
