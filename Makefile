# Every target sets up .venv by itself when it is missing or older than the requirements; the project is installed editable.
PYTHON ?= python3
PY := .venv/bin/python
export PYTHONUNBUFFERED := 1

.PHONY: demo real test test-fast lint docs notebooks bench paper clean

demo: .venv/.ready        ## the main job: logs in, decisions and a report out (runs/demo)
	$(PY) orchestrate.py --config configs/demo.yaml --out runs/demo

real: .venv/.ready        ## the real cascade on MovieLens-100K: models, log, values, measured costs (runs/recommender), a page (runs/real)
	$(PY) -m recommender.build
	$(PY) -m marca_report.real_data

test: .venv/.ready lint   ## lint, then the fast and the slow tests
	$(PY) -m pytest -q -n 2 -m "not slow"
	$(PY) -m pytest -q -n 2 --dist loadfile -m slow --durations=10

test-fast: .venv/.ready   ## only the fast tests
	$(PY) -m pytest -q -n 2 -m "not slow"

lint: .venv/.ready        ## ruff, mypy and the import contract
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache

docs: .venv/.ready        ## the documentation site (site/index.html)
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet

notebooks: .venv/.ready   ## run the notebooks and keep their outputs and figures
	$(PY) notebooks/regenerate.py

bench: .venv/.ready       ## every benchmark in its short form (runs/benchmarks/results)
	@for script in benchmarks/*.py; do \
	  case $$script in */_*) continue;; esac; \
	  echo "== $$script --quick"; $(PY) -m benchmarks.$$(basename $$script .py) --quick || exit 1; done

paper: .venv/.ready       ## every table of the paper beside its figures (docs/results): hours, resumable
	$(PY) -m benchmarks.paper

clean:                    ## outputs and caches; keeps .venv
	rm -rf runs site dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

.venv/.ready: requirements.txt pyproject.toml
	@echo "== setting up .venv (a few minutes, once)"
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --disable-pip-version-check --progress-bar on -e '.[test,docs]'
	@touch $@
