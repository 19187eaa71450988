PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help demo test test-browser lab notebooks sample bench lint lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed, but $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Setting up .venv with the locked packages: once, about 2 minutes and 3 GB."
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY)  ## run every notebook on the sample clips into results/demo
	$(BIN)/python -m helpers run --data data_sample --out results/demo --weights random

test: $(READY)  ## lint, unit tests, and every committed notebook against its outputs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python -m pytest tests -m "not browser" -n 2 --dist loadfile
	$(BIN)/python -m pytest --nbval --nbval-sanitize-with notebooks/sanitize.cfg --nbval-cell-timeout 900 notebooks

test-browser: $(READY)  ## what is seen in a browser: needs Chromium, otherwise skipped with the reason
	$(BIN)/python -m pytest tests -m browser

lab: $(READY)  ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab --notebook-dir notebooks

notebooks: $(READY)  ## re-execute the committed notebooks and normalise them
	$(BIN)/python tools/reexecute.py

sample: $(READY)  ## draw data_sample/ again, the token bank included (about 20 minutes)
	$(BIN)/python data_sample/make --shipped --out data_sample

bench: $(READY)  ## what takes how long on this machine, against a peer in the same run
	$(BIN)/python -m benchmarks

lint: $(READY)  ## check and format code and notebooks
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock: $(READY)  ## pin the packages of pyproject.toml again (needs uv)
	uv pip compile --universal --generate-hashes --no-annotate --no-header --quiet \
	  --python-version 3.11 --extra dev --extra jax pyproject.toml -o requirements.lock

clean:  ## remove results, keep .venv
	rm -rf results/demo results/sample
