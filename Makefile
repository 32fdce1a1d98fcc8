# make demo | studies | ensemble | test | test-slow | test-gpu | setup-gpu | lint: each sets up .venv first where that is needed.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo studies ensemble test test-slow test-gpu setup-gpu lint clean

demo: $(INSTALLED)
	$(BIN)/python experiments/ablate_depth.py

# Every study in the demo preset, one after another; trials that an earlier one has trained are reused. Two seeds for all: an hour's work.
studies: $(INSTALLED)
	for study in ablate_depth ablate_patch_size ablate_loss_weights ablate_augmentation ablate_architecture compare_baselines \
	  tune_hyperparameters; do $(BIN)/python experiments/$$study.py || exit 1; done
	$(BIN)/python experiments/ablate_learning.py --seeds 2 --set data.labelled_share=0.2
	$(BIN)/segmamba studies

ensemble: $(INSTALLED)
	$(BIN)/python experiments/ensemble.py

# Two processes, a file each at a time: nearly everything here keeps one core busy.
test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m "slow and not gpu"

test-gpu: $(INSTALLED)
	$(BIN)/python -m pytest -m gpu

# Builds mamba-ssm and causal-conv1d for the GPU at hand: needs nvcc of the CUDA version that torch was built with.
setup-gpu: $(INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check ninja wheel "setuptools>=77" packaging
	$(BIN)/python -m pip install --disable-pip-version-check --no-build-isolation -c constraints.txt -e '.[cuda]'

lint: $(INSTALLED)
	$(BIN)/ruff check .

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Setting up .venv with the tested versions (constraints.txt): one to a few minutes, once."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[studies,dev]'
	@touch $(INSTALLED)

clean:
	rm -rf .venv Results
