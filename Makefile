# Everything sets itself up in .venv: needs Python 3.11 or newer with pip, and make.
#   make demo    raw dumps -> tables -> audit -> a short training -> scores
#   make test    every test           make lint    style and types
#   make bench   measurements (docs/benchmarks.md)

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
# pip of the outer Python installs into the environment, so that no ensurepip is needed.
INSTALL = $(PYTHON) -m pip --python $(BIN)/python --disable-pip-version-check install --quiet

.PHONY: demo test lint bench clean

demo: $(VENV)/train.done
	PATH="$(abspath $(BIN)):$$PATH" bash examples/demo.sh demo

test: $(VENV)/all.done
	$(BIN)/python -m pytest $(ARGS)

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

clean:
	rm -rf $(VENV) demo build dist

$(VENV)/%.done: pyproject.toml
	@test -n "$(PYTHON)" || { echo "needs Python 3.11 or newer: make PYTHON=/path/to/python3"; exit 1; }
	@echo "setting up $(VENV) (some minutes, the first time)"
	@$(PYTHON) -m venv --without-pip $(VENV)
	@$(INSTALL) -e '.[$*]'
	@touch $@
