# Everything runs from .venv, made and filled when pyproject.toml or constraints.txt is newer than it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS ?= dev,tflite,phone
STAMP := $(VENV)/.installed

.PHONY: help demo test check

help:  ## list what make can do
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(STAMP)  ## profile this CPU, fit, search on digits, check the found network on the CPU, write a report
	@$(BIN)/python -m search.demo

test: $(STAMP)  ## run the tests
	@$(BIN)/python -m pytest

check: $(STAMP)  ## lint and type-check
	@$(BIN)/ruff check . && $(BIN)/mypy

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (once; some minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --editable '.[$(EXTRAS)]'
	@touch $(STAMP)
