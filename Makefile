# Every target sets up what it needs: a virtual environment in .venv with the locked packages of requirements-dev.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs-ready
INTEGRATIONS := .venv-integrations
INTEGRATIONS_READY := $(INTEGRATIONS)/.ready
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal
IF_ANY = $(if $(ARGS),|| test $$? -eq 5)# some ARGS choose no test of one of the three

WHEEL := out/wheel
WHEEL_TORCH ?= 2.13.0

NEWEST_TRITON := .triton-newest

REPRODUCE := OMP_NUM_THREADS=1 $(BIN)/python -m reproduce
DATA ?= data

# MkDocs would otherwise advertise its successor.
export NO_MKDOCS_2_WARNING = 1

.PHONY: help reproduce reproduce-quick reproduce-validate reproduce-test test test-page test-launches test-fuzz test-machine-code test-machine-code-native test-compile test-integrations test-wheel hf-kernel docs test-docs lint format demo bench bench-smoke gpu-table test-newest-triton lock clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

$(READY): requirements-dev.txt pyproject.toml setup.py $(wildcard csrc/*.* csrc/*/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "$(PYTHON) is $$($(PYTHON) --version): 3.10 or newer is needed (make PYTHON=...)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -r requirements-dev.txt
	$(BIN)/python -m pip install -q --no-build-isolation --no-deps -e .
	touch $@

$(DOCS_READY): $(READY) requirements-docs.txt
	$(BIN)/python -m pip install -q -r requirements-docs.txt
	touch $@

# PyPI has no torchvision for the torch of requirements-dev.txt, so this environment is a second one. The package and its
# extension, which works with every later torch, are those of $(VENV): nothing is compiled again.
$(INTEGRATIONS_READY): $(READY) requirements-integrations.txt
	test -x $(INTEGRATIONS)/bin/python || $(PYTHON) -m venv $(INTEGRATIONS)
	$(INTEGRATIONS)/bin/python -m pip install -q -r requirements-integrations.txt
	INTERCONV_NO_EXTENSION=1 $(INTEGRATIONS)/bin/python -m pip install -q --no-build-isolation --no-deps -e .
	touch $@

test: $(READY) ## the tests, then those of the Triton kernels in its interpreter and of their launches (ARGS="-k name" for some of them)
	OMP_NUM_THREADS=1 $(PYTEST) --ignore tests/docs --ignore tests/compile --ignore tests/integrations --ignore tests/kernels/test_machine_code.py $(ARGS) $(IF_ANY)
ifeq ($(shell uname), Linux)
	OMP_NUM_THREADS=1 TRITON_INTERPRET=1 $(PYTEST) tests/interpreted tests/kernels/test_ops.py $(ARGS) $(IF_ANY)
	$(MAKE) test-launches
endif

test-page: $(READY) ## the page in headless Chromium (Debian's, installed if apt-get can), with screenshots in out/page
	command -v chromium >/dev/null || { apt-get update -q && apt-get install -y -q chromium; } || echo "no chromium: the browser tests are skipped"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/page $(ARGS)

test-launches: $(READY) ## the launches of the Triton kernels, recorded by a CUDA driver that runs nothing (part of make test)
	OMP_NUM_THREADS=1 RECORDING_DRIVER=1 $(PYTEST) tests/gpu_without_gpu $(ARGS) $(IF_ANY)

test-fuzz: $(READY) ## 2,000 malformed inputs of the command interconv; make test has the first 280 (2 minutes on 2 cores)
	OMP_NUM_THREADS=1 MALFORMED_CASES=2000 $(PYTEST) tests/seg/test_malformed.py $(ARGS)

test-machine-code: $(READY) ## compile the Triton kernels for GPUs that are not present, check code and tables (3 minutes on 2 cores)
	$(BIN)/python -m pytest tests/kernels/test_machine_code.py $(ARGS)

test-machine-code-native: $(READY) ## compile the CUDA kernels of csrc/halo for GPUs that are not present, check code and tables (needs nvcc; 4 minutes on 2 cores)
	$(BIN)/python -m benchmarks native-code --check docs/internals/halo.md
	$(BIN)/python -m benchmarks gradient-code --check docs/internals/weight-gradient.md

test-integrations: $(INTEGRATIONS_READY) ## MONAI, nnU-Net, timm, ONNX, ...: the tests, which write docs/integrations/drop-in.md
	OMP_NUM_THREADS=1 $(INTEGRATIONS)/bin/python -m pytest -n 2 --dist worksteal -m "(integration or drop_in) and not slow" \
	  tests/integrations tests/kernels tests/seg tests/compile tests/docs/test_examples.py $(or $(ARGS),--drop-in-table docs/integrations/drop-in.md)

# PYTHON and WHEEL_TORCH choose the environment; TORCH_CUDA_ARCH_LIST=all makes a wheel for all GPUs.
test-wheel: $(READY) ## build sdist and wheel, test the wheel in an environment with torch and numpy alone (5 minutes on 2 cores)
	rm -rf $(WHEEL)
	$(BIN)/python -m build --no-isolation --outdir $(WHEEL) .
	$(PYTHON) -m venv $(WHEEL)/venv
	$(WHEEL)/venv/bin/python -m pip install -q torch==$(WHEEL_TORCH) $(WHEEL)/*.whl
	cd $(WHEEL) && OMP_NUM_THREADS=1 venv/bin/python $(CURDIR)/tests/check_wheel.py

hf-kernel: $(READY) ## the package as a kernel repository of Hugging Face, in out/hf-kernel
	$(BIN)/python tools/hf_kernel.py out/hf-kernel

test-compile: $(READY) ## every network under torch.compile, exported networks in a C++ program (an hour on 2 cores; test-integrations has the quick part)
	OMP_NUM_THREADS=1 $(PYTEST) tests/compile $(ARGS)

docs: $(DOCS_READY) ## the documentation as a site in out/site (1 minute; to view: python3 -m http.server -d out/site)
	$(BIN)/python -m mkdocs build --strict

test-docs: docs ## run the examples of README and docs/, check the site's links (4 minutes on 2 cores)
	OMP_NUM_THREADS=1 $(PYTEST) -m "not integration" tests/docs $(ARGS)

lint: $(READY) ## ruff (lint and format), mypy and clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror csrc/*.* csrc/*/* tests/halo/*.cpp examples/cpp/*.cpp

format: $(READY) ## fix what ruff and clang-format can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i csrc/*.* csrc/*/* tests/halo/*.cpp examples/cpp/*.cpp

demo: $(READY) ## train SimpleUNet with and without InterConv on simulated scans and compare (6 minutes on 2 cores)
	$(BIN)/python -m interconv_seg.demo $(ARGS)

reproduce-quick: $(READY) ## a baseline, InterConv in it, and both trained on, on synthetic tasks: does the set help? (10 minutes on 2 cores)
	$(REPRODUCE) train reproduce/quick.yaml
	$(REPRODUCE) validate reproduce/quick.yaml

# One process for each seed, with one thread each.

reproduce: $(READY) ## train the networks of the interactive claim; stops after two hours, and goes on when called again (DATA=folder of .npz)
	$(REPRODUCE) train reproduce/interactive.yaml --seeds 1 & other=$$!; \
	$(REPRODUCE) train reproduce/interactive.yaml --seeds 0; first=$$?; wait $$other && exit $$first

reproduce-validate: $(READY) ## compare them on the data to choose on
	$(REPRODUCE) validate reproduce/interactive.yaml --data $(DATA)

reproduce-test: $(READY) ## once, when nothing is chosen any more: test them, into reproduce/results
	$(REPRODUCE) test reproduce/interactive.yaml --data $(DATA)

bench: $(READY) ## the paper's layers against eager torch (half an hour on 2 cores; ARGS="--device cuda" on a GPU)
	$(BIN)/python -m benchmarks run --suite paper $(ARGS)

bench-smoke: $(READY) ## do the benchmarks work? Tiny shapes, whose times mean nothing (2 minutes on 2 cores)
	$(BIN)/python -m benchmarks run --suite smoke --directions fwd bwd both --repeats 2 $(ARGS)

gpu-table: $(READY) ## rewrite docs/internals/gpu-tables.md: machine code by the installed triton, predictions (4 minutes)
	$(BIN)/python -m benchmarks machine-code --write docs/internals/gpu-tables.md
	$(BIN)/python -m benchmarks predict --write docs/internals/gpu-tables.md

$(NEWEST_TRITON): $(READY)
	rm -rf $@
	$(BIN)/python -m pip install -q --no-deps --target $@ triton==3.9.0

test-newest-triton: $(NEWEST_TRITON) ## the machine code tests under the newest triton, 3.9.0 (3 minutes on 2 cores)
	PYTHONPATH=$(NEWEST_TRITON) $(BIN)/python -m pytest tests/kernels/test_machine_code.py

lock: ## rewrite the requirements-*.txt (needs uv); CUDA libraries that torch may ask for are left to pip
	printf 'torch==2.13.0\ntriton==3.7.1\n' | uv pip compile pyproject.toml --extra dev --universal --python-version 3.10 --no-header --no-annotate -q -c - -o .lock
	{ echo '# Made by "make lock". What the torch wheel asks for on its platform (CUDA libraries) is left to pip.'; \
	  grep -vE '^(nvidia-|cuda-)' .lock; } > requirements-dev.txt
	uv pip compile pyproject.toml --extra docs --universal --python-version 3.10 --no-header --no-annotate -q -c requirements-dev.txt -o .lock
	{ echo '# Made by "make lock". What the site (make docs) needs on top of requirements-dev.txt.'; \
	  grep -vE '^(nvidia-|cuda-|triton=)' .lock | grep -vxFf requirements-dev.txt; } > requirements-docs.txt
	printf 'torch==2.14.1\ntorchvision==0.29.1\n' | uv pip compile pyproject.toml --extra integrations --universal --python-version 3.10 --no-header --no-annotate -q -c - -o .lock
	{ echo '# Made by "make lock". The environment of "make test-integrations".'; \
	  grep -vE '^(nvidia-|cuda-)' .lock; } > requirements-integrations.txt
	rm .lock

clean: ## remove what was built
	rm -rf $(VENV) $(INTEGRATIONS) $(NEWEST_TRITON) build dist out *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
