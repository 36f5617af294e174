# Two commands matter: `make demo` and `make test`. Both set up everything they need in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1
# every engine and command would compile this project anew, which takes longer than its work
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo demo-i2v demo-sglang test-sglang test test-browser test-slow lint setup clean help

help: ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 18

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "quantgate needs Python 3.11 or newer: set PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps --target $(VENV)/oracles lpips torchvision
	touch $(STAMP)

setup: $(STAMP) ## the environment in .venv

tiny/exports/.made: $(STAMP) tiny/weights/manifest.json
	$(BIN)/python -m tiny.export --out tiny/exports
	touch $@

tiny/exports/.made-i2v: $(STAMP) tiny/weights/manifest.json tiny/weights_i2v/manifest.json tiny/weights_ti2v/manifest.json
	$(BIN)/python -m tiny.export_variants --out tiny/exports
	touch $@

# two processes: more would import torch more often than they have cases to run
TWO := -n logical --maxprocesses 2

demo: $(STAMP) tiny/exports/.made ## run the tiny suite and the incident on the CPU
	$(BIN)/python -m pytest cases/tiny.yaml cases/incident.yaml --runner cpu $(TWO)

demo-i2v: $(STAMP) tiny/exports/.made-i2v ## run the tiny image-to-video suites on the CPU
	$(BIN)/python -m pytest cases/tiny_i2v.yaml cases/tiny_ti2v.yaml --runner cpu

SGLANG_VERSIONS := 0.5.12.post1 0.5.13 0.5.23
demo-sglang: $(STAMP) tiny/exports/.made ## the incident in the real SGLang on the CPU: installs three versions (several GB), predicts, runs
	for version in $(SGLANG_VERSIONS); do $(BIN)/quantgate runtime install sglang==$$version --cpu || exit 1; done
	$(BIN)/python -m pytest cases/incident_sglang.yaml --runner cpu --run-id demo-sglang; ended=$$?; \
	$(BIN)/python -m benchmarks.sglang_incident runs/demo-sglang && exit $$ended

test-sglang: $(STAMP) tiny/exports/.made ## tests in the real SGLang; installs what they need
	for version in $(SGLANG_VERSIONS) 0.5.20; do $(BIN)/quantgate runtime install sglang==$$version --cpu || exit 1; done
	QUANTGATE_REQUIRE_RUNTIMES=1 $(BIN)/python -m pytest tests/runtimes/test_real_sglang.py tests/runtimes/test_pictures_in_sglang.py -m slow

lint: $(STAMP) ## ruff, mypy, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# three workers even on two cores: many tests wait for a process that they started
test: $(STAMP) tiny/exports/.made tiny/exports/.made-i2v lint ## lint and every test but the slow ones
	$(BIN)/python -m pytest tests --ignore=tests/browser -m 'not slow' -n 3 --dist loadfile --no-loadscope-reorder

test-browser: $(STAMP) ## a real browser drives the report; fails without one
	test -n "$$QUANTGATE_CHROMIUM" || command -v chromium >/dev/null || command -v chromium-browser >/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; } || { echo "no Chromium: apt-get install chromium, or set QUANTGATE_CHROMIUM"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,browser]'
	$(BIN)/python -m pytest tests/browser

test-slow: $(STAMP) tiny/exports/.made tiny/exports/.made-i2v ## the slow tests
	$(BIN)/python -m pytest tests --ignore=tests/browser -m slow

clean: ## remove what the commands above made, the goldens stay
	rm -rf $(VENV) runs .quantgate tiny/exports
