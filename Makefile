# make run starts the server. make test and make test-chaos run all checks that a change must pass.
PYTHON ?= python3
BIN := .venv/bin
# Programs that the tests start, and the Debian packages that contain them.
PROGRAMS := chromium-headless-shell redis-server ffmpeg sshd nginx
DEBIAN := chromium-headless-shell fonts-dejavu-core redis-server ffmpeg openssh-server nginx-light
# Four files of tests at the same time on two cores, because tests mostly wait.
PARALLEL ?= -n 4 --dist loadfile

# Files about jobs, whose stages have this name on the wire. In all other files the word is one that is not used.
JOBS := CHANGELOG.md Makefile cli docs/decisions.md docs/examples docs/jobs.md static/client static/console tests/browser \
	tests/support tests/works/jobs works/jobs
comma := ,
space := $() $()

# Docker images of Python set this variable. With it, each process of a test would compile its modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install extras run test test-chaos test-all style types types-js reference bench clean

install: .venv/installed

.venv/installed: requirements.txt
	@$(PYTHON) -m venv .venv >/dev/null 2>&1 || { rm -rf .venv; $(MAKE) --no-print-directory apt PACKAGES=python3-venv; $(PYTHON) -m venv .venv; }
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt requirements-extras.txt Makefile
	@for program in $(PROGRAMS); do command -v $$program >/dev/null || exec $(MAKE) --no-print-directory apt PACKAGES="$(DEBIAN)"; done
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

extras: install
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-extras.txt

run: install
	$(BIN)/python server.py

test: style types
	$(BIN)/python -m pytest -q -m "not slow and not chaos" $(PARALLEL)

# Kills, outages, rolling restarts, clusters, floods, hostile and dead peers, model tests.
test-chaos: .venv/installed-dev
	$(BIN)/python -m pytest -q -m "chaos and not slow" $(PARALLEL)

test-all: style types types-js
	$(BIN)/python -m pytest -q $(PARALLEL)

style: .venv/installed-dev
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/codespell --skip "$(subst $(space),$(comma),$(addprefix ./,$(JOBS)))" .
	$(BIN)/codespell --ignore-words-list stage,stages $(JOBS)

types: .venv/installed-dev
	$(BIN)/mypy

# Checks the JSDoc types of the page. It is not part of make test, which does not need Node.
types-js: .cache/typescript/node_modules/.bin/tsc
	$< --allowJs --checkJs --noEmit --strict --target es2023 --module esnext --moduleResolution bundler $(shell find static -name '*.js')

.cache/typescript/node_modules/.bin/tsc: | node
	npm install --silent --no-fund --no-audit --prefix .cache/typescript typescript@5.9.3

.PHONY: node apt
node:
	@command -v node >/dev/null && command -v npm >/dev/null || $(MAKE) --no-print-directory apt PACKAGES="nodejs npm"

# Another program may hold the locks of apt and dpkg, on a new machine for minutes. apt-get waits for the locks of dpkg,
# but not for those of its lists and archives, so it is called again. Other errors end the loop immediately.
WAIT := 300
apt:
	@as_root=; [ "$$(id -u)" = 0 ] || as_root=sudo; \
	apt_get="$$as_root env LC_ALL=C DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=$(WAIT)"; \
	end=$$(($$(date +%s) + $(WAIT))); \
	for step in update "install -y --no-install-recommends $(PACKAGES)"; do \
		until errors=$$($$apt_get $$step 2>&1 >/dev/null); do \
			case $$errors in *"Could not get lock"*) ;; *) end=0;; esac; \
			[ $$(date +%s) -lt $$end ] || { echo "$$errors" >&2; exit 1; }; \
			sleep 2; \
		done; \
	done

# Writes the generated parts of docs/reference.md and docs/actions.md. A test compares them with the code.
reference: .venv/installed-dev
	$(BIN)/python -m tests.docs.reference

bench: .cache/bench/python/installed
	@$(MAKE) --no-print-directory node || true
	.cache/bench/python/bin/python -m benchmarks $(BENCH)

.cache/bench/python/installed: requirements.txt benchmarks/requirements.txt | install
	@$(PYTHON) -m venv .cache/bench/python
	.cache/bench/python/bin/pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	@touch $@

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
