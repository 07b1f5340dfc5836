# Two commands: `make demo` runs the main job, `make test` the tests; each sets everything up first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-cpus test-versions test-pythons test-ecosystem check slow bench gpu reference docs notebooks package clean

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,dev,onnx]'
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/tickets demo --out demo-out

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2

# Slow: the tests with three instruction sets and with one and two threads; the first failing combination ends it.
test-cpus: $(VENV)/.installed
	@set -e; for threads in 1 2; do for capability in default avx2 unset; do \
		export OMP_NUM_THREADS=$$threads OMP_WAIT_POLICY=passive ATEN_CPU_CAPABILITY=$$capability; \
		if [ $$capability = unset ]; then unset ATEN_CPU_CAPABILITY; fi; \
		$(BIN)/python -c 'import torch; print(torch.backends.cpu.get_cpu_capability(), torch.get_num_threads(), "threads")'; \
		$(MAKE) --no-print-directory test; \
	done; done

# Slow: the tests with the lowest and the newest transformers that pyproject.toml allows, in environments of their own.
test-versions:
	$(PYTHON) tests/versions.py

# Slow: the tests with each Python from 3.11 to 3.14 that is installed, in an environment of its own.
test-pythons:
	$(PYTHON) tests/versions.py --pythons

# Slow: the tests with the real libraries of the extra `ecosystem`, in an environment of their own, and those of sentence
# encoders once more with sentence-transformers 5. Optimum, behind its ONNX backend, needs transformers 4, and gets
# another environment.
test-ecosystem: $(VENV)/.ecosystem
	OPTIMUM_PYTHON=$(abspath $(VENV)-optimum/bin/python) $(VENV)-ecosystem/bin/python -m pytest -m ecosystem
	PYTHONPATH=$(VENV)-ecosystem/sentence-transformers-5 $(VENV)-ecosystem/bin/python -m pytest -m ecosystem \
		tests/ecosystem -k 'sentence or setfit or mteb'

$(VENV)/.ecosystem: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-ecosystem
	$(VENV)-ecosystem/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,ecosystem]'
	$(VENV)-ecosystem/bin/python -m pip install --quiet --no-deps --upgrade 'sentence-transformers>=5.7,<6' \
		--target $(VENV)-ecosystem/sentence-transformers-5
	$(PYTHON) -m venv $(VENV)-optimum
	$(VENV)-optimum/bin/python -m pip install --quiet 'sentence-transformers[onnx]>=5.1,<6' 'transformers<4.58'
	@mkdir -p $(VENV) && touch $@

slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/all.py --out bench-out

# On a machine with a CUDA device: its tests and measurements, in under 8 minutes. PYTHON is used as it is if it has all
# packages and its torch sees the device; WHEELS is a folder to install from where no package index can be reached.
GPU_VENV ?= .venv-gpu
GPU_OUT ?= gpu-out
gpu:
	@python=$$($(PYTHON) benchmarks/gpu_python.py --venv $(GPU_VENV) $(if $(WHEELS),--wheels $(WHEELS))) && \
	$$python benchmarks/gpu.py --out $(GPU_OUT)

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

reference: $(VENV)/.installed
	$(BIN)/python docs/reference/generate.py --recipes

# The site, in build/site; strict, so a dead link is an error. `make notebooks` runs the notebooks anew.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

notebooks: $(VENV)/.docs
	$(BIN)/python docs/notebooks/build.py

# Wheel and sdist, in dist.
package: $(VENV)/.docs
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-ecosystem $(VENV)-optimum build dist $(GPU_VENV) demo-out bench-out $(GPU_OUT)
