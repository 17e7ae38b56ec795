# make demo: train, validate and paint a segmenter on generated scenes.   make test: the tests.   make docs: the site.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
WORK = work_dirs/demo

.PHONY: demo demo-detection two-step test test-all test-onedl test-matrix lint docs clean

# Made again when the dependencies change; 'installed' is written only after pip succeeded.
$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10+ is needed, set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[mm,test]'
	touch $@

demo demo-detection two-step: export SHAPES_ROOT = data/shapes

demo: $(VENV)/installed
	$(RUN) tools/make_shapes.py data/shapes
	$(RUN) tools/train.py configs/segmentation/fpn_lite0_demo_shapes-256x320.py --work-dir $(WORK)

# Faster R-CNN on the same scenes, with boxes.
demo-detection: $(VENV)/installed
	$(RUN) tools/make_shapes.py data/shapes
	$(RUN) tools/train.py configs/detection/faster-rcnn_lite0_fpn_demo_shapes-256x320.py --work-dir $(WORK)-detection

# RPN -> its proposals in files -> Fast R-CNN trained and evaluated on them, on the same scenes.
TWO = work_dirs/two-step
RPN = configs/detection/rpn_lite0_fpn_1xb4-250_shapes-256x320.py
FAST = configs/detection/fast-rcnn_lite0_fpn_1xb4-300_shapes-256x320.py
two-step: export PROPOSALS_ROOT = $(TWO)/proposals
two-step: $(VENV)/installed
	$(RUN) tools/make_shapes.py data/shapes
	$(RUN) tools/train.py $(RPN) --work-dir $(TWO)/rpn
	for split in train val; do $(RUN) tools/make_proposals.py $(RPN) $$(cat $(TWO)/rpn/last_checkpoint) \
	  --split $$split --out $(TWO)/proposals/$$split.pkl || exit; done
	$(RUN) tools/train.py $(FAST) --work-dir $(TWO)/fast-rcnn
	$(RUN) tools/test.py $(FAST) $$(cat $(TWO)/fast-rcnn/last_checkpoint) --work-dir $(TWO)/test
	$(RUN) tools/predict.py $(FAST) $$(cat $(TWO)/fast-rcnn/last_checkpoint) --out $(TWO)/predictions \
	  --rpn $(RPN) $$(cat $(TWO)/rpn/last_checkpoint) data/shapes/val/images/00000[1-6].jpg

test: $(VENV)/installed
	$(RUN) -m pytest -n 2 --dist worksteal

test-all: $(VENV)/installed
	$(RUN) -m pytest -n 2 --dist worksteal -m ''

# The same tests on the OneDL forks of the mm stack; then oldest and newest Python and torch on both
# stacks, in environments of their own (noxfile.py).
test-onedl: $(VENV)/installed
	$(RUN) -m nox --session onedl

test-matrix: $(VENV)/installed
	$(RUN) -m nox

lint: $(VENV)/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports
	$(RUN) -m mypy

# The pages of docs/ as a site in site/, without network; a broken link is an error.
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(VENV)/installed
	$(RUN) -m mkdocs build

clean:
	rm -rf work_dirs site .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .nox
