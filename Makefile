# Everything sets itself up in .venv: needs Python 3.11 or newer with pip, and make.
#   make demo    raw dumps -> tables -> audit -> a short training -> scores
#   make test    every test           make lint    style and types
#   make coverage   every test, and the branches they run      make audit   known holes in what is installed
#   make bench   measurements (docs/benchmarks.md)
#   make docs    the pages as a site, build/site/index.html

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
# pip of the outer Python installs into the environment, so that no ensurepip is needed.
WORKERS = -n auto --maxprocesses 8 --dist worksteal
INSTALL = $(PYTHON) -m pip --python $(BIN)/python --disable-pip-version-check install --quiet

.PHONY: demo test coverage lint audit bench docs clean

demo: $(VENV)/train.done
	PATH="$(abspath $(BIN)):$$PATH" bash examples/demo.sh demo

test: $(VENV)/all.done
	$(BIN)/python -m pytest $(WORKERS) $(ARGS)

# The file is absolute, as tests leave the folder.
coverage: export COVERAGE_FILE = $(abspath $(VENV))/coverage
coverage: $(VENV)/all.done
	$(BIN)/python -m pytest $(WORKERS) --cov --cov-report= $(ARGS)
	$(BIN)/python -m coverage report --include='rsdata/*' --skip-covered --show-missing --fail-under=95
	$(BIN)/python -m coverage report --include='rsclip/*' --skip-covered --show-missing --fail-under=90

# Asks the advisory databases on the network.
audit: $(VENV)/all.done
	$(BIN)/pip-audit --skip-editable

lint: $(VENV)/all.done
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The peers have environments of their own, because what they ask for is not what we do.
bench: $(VENV)/all.done
	@$(PYTHON) -m venv --without-pip $(VENV)/peers
	@$(PYTHON) -m pip --python $(VENV)/peers/bin/python --disable-pip-version-check install --quiet \
		globox datumaro supervision
	@$(PYTHON) -m venv --without-pip $(VENV)/clip-peers
	@$(PYTHON) -m pip --python $(VENV)/clip-peers/bin/python --disable-pip-version-check install --quiet \
		'open_clip_torch[training]==3.3.0'
	$(BIN)/python tests/benchmarks/write.py --peers $(abspath $(VENV))/peers/bin/python \
		--clip-peers $(abspath $(VENV))/clip-peers/bin/python

# The pages that come from the code are written anew; a link that leads nowhere is an error.
docs: $(VENV)/docs.done
	$(BIN)/python docs/render.py
	$(BIN)/zensical build --strict

clean:
	rm -rf $(VENV) demo build dist

$(VENV)/%.done: pyproject.toml
	@test -n "$(PYTHON)" || { echo "needs Python 3.11 or newer: make PYTHON=/path/to/python3"; exit 1; }
	@echo "setting up $(VENV) (some minutes, the first time)"
	@$(PYTHON) -m venv --without-pip $(VENV)
	@$(INSTALL) -e '.[$*]'
	@touch $@
