# One command each. A fresh machine needs Python 3.11 and make; everything else goes into .venv.
# make quickstart ARGS=--fast, make test ARGS="-k ijepa": ARGS is passed on.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
ARGS :=

.PHONY: help quickstart test test-slow test-cluster check bench clean

help:
	@echo "make quickstart   a small comparison from end to end (ARGS=--fast: smaller still)"
	@echo "make test         the tests, two at a time"
	@echo "make test-slow    several processes at once, wheels, a browser, simulations"
	@echo "make test-cluster a real two-node SLURM on this machine: time-outs, preemption, a dead node (root, Debian)"
	@echo "make check        ruff, formatting, types"
	@echo "make bench        timings beside other libraries, where they are installed (ARGS=\"steps --methods mae\")"
	@echo "make clean        remove .venv, caches and dist (never runs)"

quickstart: $(STAMP)
	$(BIN)/ssl-bench quickstart $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not cluster" $(ARGS)

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow $(ARGS)

test-cluster: $(STAMP)
	-slurm/local_cluster.sh install
	$(BIN)/python -m pytest -s -m cluster $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/ssl-bench report --check

bench: $(STAMP)
	$(BIN)/python tests/benchmarks/run.py $(ARGS)

clean:
	rm -rf $(VENV) dist build .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# python3.11 comes first: the versions in constraints.txt were tested together on it.
$(BIN)/python:
	@for python in python3.11 python3 python3.12 python3.13; do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "$$python -m venv $(VENV)"; \
			$$python -m venv $(VENV) && exit 0; \
			rm -rf $(VENV); \
			echo "make: '$$python -m venv' failed (above). On Debian and Ubuntu: apt install python3-venv" >&2; \
			exit 1; \
		fi; \
	done; \
	echo "make: ssl-bench needs Python 3.11 or newer, and neither python3.11 nor python3 is one. Install it first." >&2; \
	exit 1

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@command -v uv >/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv -c constraints.txt
	PATH="$$PATH:$(BIN)" uv pip install --python $(BIN)/python --constraints constraints.txt \
		--build-constraints constraints.txt --compile-bytecode --editable ".[dev,tensorboard]"
	@touch $@
