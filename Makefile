# Two commands do everything on a machine that has Python 3.11+ and make: make demo, make test.

PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo

# Python's bytecode is kept, or each of the many processes that the tests start would compile torch anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test lint lock clean

setup: .venv/installed

# uv is fetched by pip into the environment itself, so that nothing else need be there.
.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "pyrovae needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

demo: setup
	rm -rf $(DEMO)
	$(BIN)/pyrovae train vae --data digits --epochs 400 --out $(DEMO)
	$(BIN)/pyrovae evaluate $(DEMO)
	$(BIN)/pyrovae overview $(DEMO)

test: setup
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lock: setup
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev \
		--custom-compile-command "make lock" pyproject.toml -o requirements.lock

clean:
	rm -rf .venv runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache
