# make demo        set up, then watch the shipped policy at work in Meta-World      (outputs/demo/)
# make test        set up, then run all tests
# make quickstart  set up, then the whole road: record, pre-train, fine-tune, evaluate (outputs/quickstart/)
# make style       rewrite the sources as ruff wants them;  make quality only checks
# make clean       remove caches and build leftovers;       make distclean also the virtual environment
#
# Variables: PYTHON=python3.12 (which interpreter), VENV=.venv (where to), ARGS="--help" (passed on to the command),
# TORCH_INDEX=URL (a package index to take torch from: on Linux the default index holds the build for NVIDIA GPUs, a
# download of gigabytes; pytorch.org names the index of the small CPU build).

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
ARGS ?=

BIN := $(VENV)/bin
# Two cores are shared best by two test processes with one thread each.
TEST_PROCESSES ?= 2
SOURCES := src tests training benchmarks examples setup.py

.PHONY: demo test quickstart style quality clean distclean graphics
.DELETE_ON_ERROR:
.NOTPARALLEL: # `graphics` asks the installed package

demo: $(VENV)/.installed-demo graphics
	$(BIN)/hf-vpdd demo $(ARGS)

quickstart: $(VENV)/.installed-demo graphics
	$(BIN)/hf-vpdd quickstart $(ARGS)

test: $(VENV)/.installed-dev graphics
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal $(ARGS)

style: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix $(wildcard $(SOURCES))
	$(BIN)/ruff format $(wildcard $(SOURCES))

quality: $(VENV)/.installed-dev
	$(BIN)/ruff check $(wildcard $(SOURCES))
	$(BIN)/ruff format --check $(wildcard $(SOURCES))

clean:
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis MUJOCO_LOG.TXT
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) src/*.egg-info

# Set-up: a stamp file per set of extras, renewed when the requirements change, so that a second `make` starts at once.
$(VENV)/.installed-%: setup.py constraints.txt | $(VENV)/bin/pip
	@if [ -n "$(TORCH_INDEX)" ] && ! $(BIN)/python -c "import torch" 2>/dev/null; then \
		echo "Installing torch from $(TORCH_INDEX)"; \
		$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt --index-url "$(TORCH_INDEX)" torch; \
	fi
	@echo "Installing hf-vpdd[$*] into $(VENV) (a minute or more the first time)"
	@$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e ".[$*]"
	@touch $@

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "hf-vpdd needs Python 3.10 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
			"Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu: sudo apt-get install python3-venv"; exit 1; }

# The system libraries that draw without a screen. Installed where this may (root, or sudo without a password).
graphics:
	@missing=$$($(BIN)/hf-vpdd doctor --missing-packages) || exit 1; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ]; then may=""; elif sudo -n true 2>/dev/null; then may="sudo -n"; else may="no"; fi; \
	if [ "$$may" = no ] || ! command -v apt-get >/dev/null; then \
		echo "Drawing without a screen needs system packages. Ask for: sudo apt-get install -y $$missing"; exit 1; \
	fi; \
	echo "Installing system packages: $$missing"; \
	install="$$may env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing"; \
	$$install >/dev/null 2>&1 || { $$may apt-get update -qq && $$install >/dev/null; }
