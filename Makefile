# make demo | test | test-slow | test-gpu | lint: each sets up .venv first where that is needed.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test test-slow test-gpu lint clean

demo: $(INSTALLED)
	$(BIN)/python experiments/ablate_depth.py

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/python -m pytest

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m "slow and not gpu"

test-gpu: $(INSTALLED)
	$(BIN)/python -m pytest -m gpu

lint: $(INSTALLED)
	$(BIN)/ruff check .

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Setting up .venv with the tested versions (constraints.txt): one to a few minutes, once."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[studies,dev]'
	@touch $(INSTALLED)

clean:
	rm -rf .venv Results
