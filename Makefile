# make demo | studies | ensemble | test | test-slow | test-gpu | setup-gpu | lint | docs | pictures
# make evidence DATA=... | lock
# Each sets up .venv first where that is needed.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check
INSTALLED := .venv/.installed
DOCS_INSTALLED := .venv/.installed-docs

.PHONY: demo studies ensemble test test-slow test-gpu setup-gpu lint docs clean
.PHONY: pictures picture-report lock evidence

demo: $(INSTALLED)
	$(BIN)/python experiments/ablate_depth.py

# Every study in the demo preset, one after another; trials that an earlier one has trained are
# reused. Three or four seeds for all, which takes longer than the hour of two seeds each.
studies: $(INSTALLED)
	for study in ablate_depth ablate_patch_size ablate_loss_weights ablate_augmentation \
	  ablate_architecture ablate_mixer ablate_modalities compare_baselines tune_hyperparameters; do \
	  $(BIN)/python experiments/$$study.py --max-seeds 4 || exit 1; done
	$(BIN)/python experiments/ablate_learning.py --max-seeds 4 --set data.labelled_share=0.2
	$(BIN)/segmamba studies

ensemble: $(INSTALLED)
	$(BIN)/python experiments/ensemble.py

# The studies of docs/evidence.md on your data, one after another; the same command goes on. ARGS are
# further options, e.g. ARGS="--labels mixed --phantoms".
evidence: $(INSTALLED)
	$(BIN)/python experiments/evidence.py --data "$(DATA)" --page docs/evidence.md $(ARGS)

# Two processes, a file each at a time: nearly everything here keeps one core busy.
test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m "slow and not gpu"

test-gpu: $(INSTALLED)
	$(BIN)/python -m pytest -m gpu

# Builds mamba-ssm and causal-conv1d for the GPU at hand: needs nvcc of the CUDA version that torch
# was built with.
setup-gpu: $(INSTALLED)
	$(PIP) ninja wheel "setuptools>=77" packaging
	$(PIP) --no-build-isolation -c constraints.txt -e '.[cuda]'

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, into site/; a broken link or an undocumented name is an error.
docs: $(DOCS_INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Every picture in docs/images, drawn again; `picture-report` the report's alone, from the study that
# `make pictures` has left in Results/pictures, or from a new one. Needs Chromium.
pictures: $(INSTALLED)
	$(BIN)/python docs/draw_pictures.py

picture-report: $(INSTALLED)
	$(BIN)/python docs/draw_pictures.py report --keep

# requirements/, from pyproject.toml and constraints.txt; uv asks the package index.
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	.venv-lock/bin/python requirements/lock.py
	rm -rf .venv-lock

$(DOCS_INSTALLED): $(INSTALLED)
	$(PIP) --quiet -c constraints.txt -e '.[docs]'
	@touch $(DOCS_INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Setting up .venv with the tested versions (constraints.txt): one to a few minutes, once."
	$(PYTHON) -m venv .venv
	$(PIP) --quiet -c constraints.txt -e '.[studies,dev]'
	@touch $(INSTALLED)

clean:
	rm -rf .venv Results site
