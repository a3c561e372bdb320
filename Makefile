# Every target works from a bare clone with Python 3.11 or 3.12; its environment is made once, in .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOWEST := .venv-lowest
OUT := outputs/demo
ONE_PROCESS := --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no

.PHONY: demo test test-lowest check format clean

$(READY): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]'
	touch $@

POST := Picture of the day: Pavel, Kestra, town hall, yesterday.
PREDICT := $(BIN)/python predict.py --model $(OUT)/model --text "$(POST)"

demo: $(READY)  ## generated pictures and texts: train with and without pictures, predict, score
	$(BIN)/python -m roc.dataset_scripts.synthetic --output_dir $(OUT)/data
	$(BIN)/accelerate launch $(ONE_PROCESS) train.py configs/demo.yaml --data_dir $(OUT)/data --output_dir $(OUT)/model --overwrite
	$(BIN)/accelerate launch $(ONE_PROCESS) train.py configs/demo.yaml --data_dir $(OUT)/data --output_dir $(OUT)/text_only --overwrite --no-use_image --num_epochs 3
	$(PREDICT) --image examples/couple.png --head Pavel --tail Kestra --picture $(OUT)/couple.png
	$(PREDICT) --image examples/teammates.png --head Pavel --tail Kestra --picture $(OUT)/teammates.png
	$(PREDICT) --image examples/couple.png --head Pavel --tail box:0.69,0.34,0.98,0.59 --picture $(OUT)/reads.png
	@echo "look at the pictures in $(OUT); the scores on the test split:"
	$(BIN)/python score.py --model $(OUT)/model --dataset synthetic --data_dir $(OUT)/data --split test

test: $(READY) check  ## lint, types, import contracts and the fast tests
	$(BIN)/python -m pytest -n 2

$(LOWEST)/.ready: setup.cfg constraints-lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --constraint constraints-lowest.txt --editable '.[all]'
	touch $@

test-lowest: $(LOWEST)/.ready  ## the fast tests with the lowest versions that setup.cfg allows
	$(LOWEST)/bin/python -m pytest -n 2

check: $(READY)  ## lint, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p $(VENV)/typed && ln -sfn ../.. $(VENV)/typed/roc # so that mypy finds the checkout under the name roc
	MYPYPATH=$(VENV)/typed $(BIN)/mypy -p roc
	$(BIN)/lint-imports --no-cache

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(LOWEST) build dist *.egg-info outputs .mypy_cache .ruff_cache .pytest_cache
