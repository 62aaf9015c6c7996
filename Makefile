# `make test` and `make demo` need Python 3.12 or newer, its pip, and a package index within reach; nothing else.
# They make .venv here on first use. PYTHON=/path/to/python3.13 chooses the interpreter, ARGS="-k name" goes to pytest.

BIN := .venv/bin
UV_VERSION := 0.13.9

unexport PYTHONPATH PYTHONHOME

.DEFAULT_GOAL := help
.PHONY: help setup setup-demo demo test lint types notebooks wheel wheel-check lock clean distclean

help:
	@echo "make demo        recommend a learning rate and a batch size, with bands, from the model that is shipped"
	@echo "make test        run the tests            (ARGS='-k name' is passed to pytest)"
	@echo "make lint        ruff"
	@echo "make types       mypy over src"
	@echo "make notebooks   run every notebook, start to end (WRITE=1 keeps the executed copies in out/notebooks)"
	@echo "make wheel       build the wheel into dist/ and look inside"
	@echo "make wheel-check the same, then install it in a fresh environment and use it there"
	@echo "make lock        bring both locks in line with pyproject.toml (UPGRADE=1 takes newer versions too)"
	@echo "make clean       remove what was built; distclean removes .venv too"

setup:
	@sh tools/setup.sh

# What is shipped answers with the package's own needs: no torch, no cluster engines, no test tools.
setup-demo:
	@sh tools/setup.sh demo

demo: setup-demo
	$(BIN)/scaleband models list
	$(BIN)/scaleband recommend --model step-law --params 1e9 --tokens 2e10 --source step-law --data steplaw_main
	$(BIN)/scaleband regret --model step-law --params 1e9 --tokens 2e10 --source step-law --data steplaw_main --lr 3e-3 --batch-tokens 524288
	$(BIN)/scaleband data list
	$(BIN)/scaleband recommend --model scaleband-tiny --params 1e5 --tokens 131072 --source scaleband --data code

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile$(if $(ARGS), $(ARGS))

lint: setup
	$(BIN)/ruff check --output-format concise .

types: setup
	$(BIN)/mypy

notebooks: setup
	$(BIN)/python tools/run_notebooks.py$(if $(WRITE), --write out/notebooks)

wheel: setup
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --no-index --no-build-isolation --no-deps --wheel-dir dist .
	$(BIN)/python tools/check_wheel.py dist/*.whl

wheel-check: wheel
	$(BIN)/python tools/check_wheel.py --install dist/*.whl

# The lock holds name, version and hashes for Linux, macOS and every supported Python: no index, no path. The tool that
# writes it is pinned here and lives in a throw-away environment.
LOCKED := --universal --python-version 3.12 --python out/lock/bin/python --no-config --no-python-downloads \
	--generate-hashes --only-binary :all: --no-emit-index-url --no-emit-find-links \
	--custom-compile-command "make lock" --quiet

lock:
	rm -rf out/lock
	python=$$(sh tools/find-python.sh) && "$$python" -m venv out/lock
	out/lock/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: uv==$(UV_VERSION)
	out/lock/bin/uv pip compile pyproject.toml --group dev --extra torch --extra cluster --output-file requirements.lock \
		$(LOCKED) $(if $(UPGRADE),--upgrade)
	printf 'hatchling\n' | out/lock/bin/uv pip compile pyproject.toml - --constraint requirements.lock \
		--output-file requirements-demo.lock $(LOCKED)
	rm -rf out/lock

clean:
	rm -rf build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv
