# Every target works from a bare clone with Python 3.11 (or 3.10 to 3.12); the environment is made once, in .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OUT := outputs/demo

.PHONY: demo test check format clean

$(READY): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]'
	touch $@

demo: $(READY)  ## the whole way on generated data: train, score, predict with a picture
	$(BIN)/python -m roc.dataset_scripts.synthetic --output_dir $(OUT)/data
	$(BIN)/accelerate launch --num_processes 1 train.py configs/demo.yaml --data_dir $(OUT)/data --output_dir $(OUT)/model --overwrite

test: $(READY) check  ## lint, types and the fast tests
	$(BIN)/python -m pytest -n 2

check: $(READY)  ## lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info outputs .mypy_cache .ruff_cache .pytest_cache
