# What a user and a developer of ovn-docker type. `make help` lists it.
.DEFAULT_GOAL := help
.PHONY: help run run-underlay stop check lint docs lock fuzz test test-engines test-faults test-attacks test-kernel test-underlay chaos bench bench-quick bench-kernel soak deb rpm plugin test-packages install uninstall clean

PREFIX ?= /opt/ovn-docker
DESTDIR ?=
# Else each of the many processes of the tests would compile every module anew.
unexport PYTHONDONTWRITEBYTECODE

# Not another one by command line: make clean removes it.
override VENV := .venv
override BIN := $(VENV)/bin
MODE ?= overlay
SHELL_SCRIPTS := .ci/run scripts/* demo/*.sh tests/kernel/*.sh packaging/place packaging/debian/licences

help: ## show this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 21

run: ## install what is missing, start everything, play the guide's session (as root)
	@demo/up.sh
	@demo/session.sh

run-underlay: ## a small OpenStack cloud, Docker in two of its VMs, a ping between containers (as root)
	@scripts/debian-packages underlay
	@scripts/virtualenv $(VENV) --editable '.[test]'
	@PYTHONPATH=tests $(BIN)/python -W ignore -m e2e.lab.cloud

stop: ## undo make run
	@demo/down.sh

check: ## lint, types, unit and functional tests but the slow ones: under a minute (as root)
	@scripts/debian-packages check
	@$(MAKE) --no-print-directory lint
	$(BIN)/pytest --numprocesses=4 --dist=worksteal -m "not slow" tests/unit tests/functional tests/fuzz

lint: ## style and types
	@scripts/virtualenv $(VENV) --editable '.[test]'
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	@if command -v shellcheck >/dev/null; then set -x; shellcheck $(SHELL_SCRIPTS); fi

docs: ## write docs/reference.md anew, from the programs' own tables
	@scripts/virtualenv $(VENV) --editable '.[test]'
	$(BIN)/python tools/reference.py docs/reference.md

PIP_COMPILE := $(BIN)/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe --no-header --no-annotate \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options --upgrade
lock: ## pin, with hashes, what a release is installed with: packaging/requirements*.txt
	@scripts/virtualenv $(VENV) --editable '.[test]'
	@$(BIN)/pip install --quiet pip-tools
	$(PIP_COMPILE) --output-file packaging/requirements.txt pyproject.toml
	$(PIP_COMPILE) --extra underlay --output-file packaging/requirements-underlay.txt pyproject.toml
	$(PIP_COMPILE) --output-file packaging/requirements-build.txt packaging/requirements-build.in

test: ## all tests: unit, functional, end to end (as root)
	@scripts/debian-packages test
	@scripts/virtualenv $(VENV) --editable '.[test]'
	@# The second part runs also when the first has failed.
	failed=; \
	$(BIN)/pytest --numprocesses=4 --dist=worksteal tests/unit tests/functional tests/fuzz || failed=1; \
	$(BIN)/pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder tests/e2e || failed=1; \
	test -z "$$failed"

test-engines: ## end-to-end tests on newer Docker, in Debian trees kept in /var/cache (as root)
	@scripts/debian-packages test
	@scripts/virtualenv $(VENV) --editable '.[test]'
	$(BIN)/pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder tests/e2e -m engines

test-faults: ## end-to-end tests that kill, restart and cut off, on three machines; a short run of `make chaos` (as root)
	@scripts/debian-packages test
	@scripts/virtualenv $(VENV) --editable '.[test]'
	$(BIN)/pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder tests/e2e -m faults

test-attacks: ## attacks from inside containers, and from a host with stolen credentials, on three hosts (as root)
	@scripts/debian-packages test
	@scripts/virtualenv $(VENV) --editable '.[test]'
	$(BIN)/pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder tests/e2e -m attacks

ACCELERATOR ?= auto
RELEASE ?= bookworm
test-kernel: ## the demo, the installed package and end-to-end tests in an ordinary Debian virtual machine, kept in /var/cache; QUICK=1 runs a part, RELEASE=trixie has Debian 13 (as root)
	@scripts/debian-packages kernel
	@scripts/virtualenv $(VENV) --editable '.[test]'
	$(BIN)/pytest --capture=no --durations=0 -o faulthandler_timeout=0 tests/kernel $(if $(QUICK),-m quick) --release=$(RELEASE) --accelerator=$(ACCELERATOR)

NEUTRON ?= 29
test-underlay: ## end-to-end tests in a small OpenStack cloud, kept in /var/cache; NEUTRON=26 for that release (as root)
	@scripts/debian-packages underlay
	@scripts/virtualenv $(VENV) --editable '.[test]'
	$(BIN)/pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder tests/e2e -m underlay --neutron=$(NEUTRON)

FAULTS ?= 100
chaos: ## docker commands on three hosts while everything fails; FAULTS=1000 takes hours, SEED=7 repeats a run, RAFT=1 has a cluster of databases, UNDERLAY=1 a cloud (as root)
	@scripts/debian-packages $(if $(UNDERLAY),underlay,test)
	@scripts/virtualenv $(VENV) --editable '.[test]'
	PYTHONPATH=tests $(BIN)/python -m chaos --faults $(FAULTS) $(if $(SEED),--seed $(SEED)) $(if $(ENGINE),--engine $(ENGINE)) $(if $(RAFT),--raft) $(if $(UNDERLAY),--underlay) $(if $(KEEP),--keep)

FUZZ := 100000
fuzz: ## feed nonsense to what reads from outside: FUZZ=100000 inputs in all (as root)
	@scripts/debian-packages check
	@scripts/virtualenv $(VENV) --editable '.[fuzz]'
	for target in http call words database row; do \
		PYTHONPATH=tests $(BIN)/python -m fuzz.coverage $$target $$(($(FUZZ) / 6)) || exit; done
	FUZZ=$$(($(FUZZ) / 6)) $(BIN)/pytest tests/fuzz
	FUZZ=1 $(BIN)/pytest -m hypothesis tests/unit

bench: ## measure side by side with others, and write bench/results/latest.json (as root)
	@scripts/debian-packages bench
	@scripts/virtualenv $(VENV) --editable '.[test]'
	PYTHONPATH=tests $(BIN)/python -m bench

bench-quick: ## the measures that matter most, in three minutes (as root)
	@scripts/debian-packages bench
	@scripts/virtualenv $(VENV) --editable '.[test]'
	PYTHONPATH=tests $(BIN)/python -m bench --scale 0.2 --results /dev/null 1 2 4

LIVES ?= 100000
soak: ## endpoints' lives on two hosts, LIVES=100000 takes hours; fails if memory, rows, links or files grow; writes bench/results/soak.json (as root)
	@scripts/debian-packages bench
	@scripts/virtualenv $(VENV) --editable '.[test]'
	PYTHONPATH=tests $(BIN)/python -m bench.soak --lives $(LIVES)

bench-kernel: ## containers' traffic on the kernel's datapath against Docker's overlay and bridge, in the machine of make test-kernel (as root)
	@scripts/debian-packages kernel
	@scripts/virtualenv $(VENV) --editable '.[test]'
	PYTHONPATH=tests $(BIN)/python -m bench.kernel_machine --release=$(RELEASE) --accelerator=$(ACCELERATOR)

plugin: ## build Docker's managed plugin, for swarm, into dist/plugin, and create it if Docker runs (as root)
	@scripts/plugin
	@if docker version >/dev/null 2>&1; then docker plugin create ovn-docker/openvswitch dist/plugin; \
	else echo "Docker does not run here; where it does: docker plugin create ovn-docker/openvswitch dist/plugin"; fi

deb: ## build Debian packages for this machine's release, 12 or 13, into dist/ (as root)
	@scripts/deb

rpm: ## build rpms for Fedora, and for the RHEL that has this machine's Python, into dist/
	@scripts/rpm

test-packages: ## build Debian packages, rpms and the wheel; install, upgrade and purge them in clean Debian trees, kept in /var/cache (as root)
	@scripts/debian-packages packages
	@scripts/virtualenv $(VENV) --editable '.[test]'
	$(BIN)/pytest --numprocesses=2 --dist=loadfile tests/packages

install uninstall: export PREFIX := $(PREFIX)
install uninstall: export DESTDIR := $(DESTDIR)
install uninstall: export MODE := $(MODE)
install: ## install into PREFIX (/opt/ovn-docker), with systemd units, manual pages, completion; MODE=underlay in OpenStack VMs (as root)
	@scripts/install install

uninstall: ## remove what make install installed
	@scripts/install uninstall

clean: ## remove what was built here, the virtual environment included
	rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
