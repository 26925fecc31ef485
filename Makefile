# Portolan's chores. Everything below `scripts/` can be run by itself.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup check test test-engines demo image bench bench-converge bench-crowd bench-dns bench-restart bench-rolling bench-scale bench-zone bed-up bed-down bed-agents bed-status bed-shell e2e fuzz

help: ## List these
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

setup: ## Install what is missing, from the distribution's packages
	@scripts/setup.sh

check: setup ## Format, lints, unit, property and simulation tests, docs: three minutes at most
	cargo fmt --check
	for script in scripts/*.sh tests/e2e/bed/*.sh tests/it/agent/front/*.sh .ci/run; do bash -n "$$script"; done
	cargo clippy --all-targets -- -D warnings
	cargo nextest run
	RUSTDOCFLAGS=-Dwarnings cargo doc --no-deps --document-private-items

test: setup ## Every test there is, on real engines and a real etcd: 35 minutes at most, and how long each part took
	@scripts/test.sh

test-engines: setup ## The same, and all tests that use a Docker engine once more on engine 26.1
	@scripts/test.sh engines

e2e: ## Only the bed's tests, on a bed that is up; T=name picks some
	cargo nextest run --profile e2e --test e2e $(T)

fuzz: ## Look for inputs that break us: SECONDS=60 for all targets, or for TARGET=hot|complete|forward|record; MERGE=1 keeps them
	@MERGE=$(MERGE) scripts/fuzz.sh "$(or $(SECONDS),60)" "$(TARGET)"

demo: ## See a container's start become a DNS answer, and its stop take it away
	@scripts/demo.sh

image: setup ## The agent's image, portolan:dev
	@scripts/image.sh agent

bench: bench-converge bench-crowd bench-dns bench-restart bench-rolling bench-scale bench-zone ## All benchmarks; figures go to target/bench/

# The older binary that BEFORE stands for, a commit or a path: the present one is compared with it, and with itself.
before = $(if $(BEFORE),$$(scripts/before.sh $(1) "$(BEFORE)"))

bench-converge: setup ## Event to answer on the own and on other hosts, beside etcd's own put to watch; BEFORE=COMMIT ROUNDS=60
	before=$(call before,portolan); BENCH_BEFORE=$$before BENCH_ROUNDS=$(ROUNDS) cargo bench --bench converge

bench-crowd: setup ## The same beside 200 containers with health checks that the agent runs
	BENCH_CROWD=1 cargo bench --bench converge

bench-dns: ## Our DNS server beside NSD, Knot, dnsmasq, unbound and a bare echo; ROUNDS=7 ONLY=a,b PEERS=nsd,echo SMOKE=1 BEFORE=COMMIT
	@scripts/setup.sh knotd:knot dnsmasq:dnsmasq-base unbound:unbound
	before=$(call before,dns); BENCH_BEFORE=$$before \
	BENCH_ROUNDS=$(ROUNDS) BENCH_ONLY=$(ONLY) BENCH_PEERS=$(PEERS) BENCH_SMOKE=$(SMOKE) cargo bench --bench dns

bench-restart: setup ## Restarts, takeovers and reloads at 5,000 q/s: queries lost, and the longest wait
	cargo bench --bench restart

bench-rolling: setup ## Rolling restart of ten replicas under load: requests lost with and without drain --wait
	cargo bench --bench rolling

bench-scale: setup ## 100,000 instances of 10,000 services from 1,000 hosts: time, memory, cost of a change; BEFORE=COMMIT ROUNDS=10
	before=$(call before,scale); BENCH_BEFORE=$$before BENCH_ROUNDS=$(ROUNDS) cargo bench --bench scale

bench-zone: ## One change at 1,000 and at 1,000,000 instances, and what instances and answers weigh
	cargo bench --bench zone

bed-up: setup ## Bring up the test bed: four hosts, three etcd members, agents
	@scripts/bed.sh up

bed-agents: ## Rebuild the agent and replace it on the bed's hosts
	@scripts/bed.sh agents

bed-status: ## What runs on the bed, and who answers
	@scripts/bed.sh status

bed-shell: ## A shell on a host of the bed; HOST=host-b for another
	@scripts/bed.sh shell $(or $(HOST),host-a)

bed-down: ## Take the bed down, and all of it
	@scripts/bed.sh down
