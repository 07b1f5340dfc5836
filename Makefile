# Two commands: `make demo` runs the main job, `make test` the tests; each sets everything up first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-cpus test-versions check slow bench gpu reference clean

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
	$(BIN)/python docs/reference/generate.py

clean:
	rm -rf $(VENV) $(GPU_VENV) demo-out bench-out $(GPU_OUT)
