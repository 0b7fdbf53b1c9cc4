# stepwell: two commands from a fresh machine. `make` lists them.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast lint types bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

# torch first and pinned: everything else is then satisfied with the build that is there.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[tools,dev]'
	touch $(READY)

demo: $(READY) ## compare SGD, AdamW and Lion on real images; writes runs/demo/report.html
	$(BIN)/stepwell compare digits --optimizers sgd,adamw,lion --trials 6 --seeds 3 --jobs 2 --out runs/demo

test: $(READY) lint types ## everything that continuous integration runs
	$(BIN)/python -m pytest -n 2 --dist loadgroup

test-fast: $(READY) ## the tests that take a second or less
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m 'not slow'

lint: $(READY)
	$(BIN)/ruff check src tests bench examples
	$(BIN)/ruff format --check src tests bench examples

types: $(READY)
	$(BIN)/mypy

bench: $(READY) ## speed and memory of the step against torch
	$(BIN)/python bench/step.py

clean: ## remove the environment and what runs left behind
	rm -rf .venv runs .pytest_cache .ruff_cache .mypy_cache
