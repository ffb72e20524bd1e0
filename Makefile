# What people and CI type. The work is done by cargo and by scripts/.
SHELL := /bin/bash

help: ## Say what there is
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 20

demo: ## Search this machine's Debian packages from a private PostgreSQL (DATA=file.jsonl: your own)
	@scripts/demo.sh $(DATA)

test: ## Install what is missing and run every test
	@scripts/ensure-postgres.sh
	@scripts/ensure-extensions.sh
	@scripts/ensure-clients.sh >/dev/null
	@scripts/ensure-browser.sh
	cargo test --workspace --locked

bench: ## Measure against tantivy called directly (ARGS="--docs 100000": see --help)
	@scripts/ensure-postgres.sh
	cargo build --release --locked --workspace --bin egret --bin egret-bench
	$(or $(CARGO_TARGET_DIR),target)/release/egret-bench $(ARGS)

chaos: ## Kill egret, PostgreSQL and the network in RUNS=1000 more runs, from SEED=1
	@scripts/ensure-postgres.sh
	CHAOS_SEED=$(or $(SEED),1) CHAOS_RUNS=$(or $(RUNS),1000) CHAOS_AT_ONCE=$(or $(AT_ONCE),5) \
		cargo test --profile profiling --workspace --locked --test chaos -- --nocapture

versions: ## Test change capture on other PostgreSQLs (VERSIONS="14 16 17 18", FILTER=names)
	@scripts/ensure-postgres.sh
	@scripts/ensure-extensions.sh
	FILTER="$(FILTER)" scripts/test-versions.sh $(VERSIONS)

powercut: ## Cut the power in RUNS=1000 more runs of each campaign, from SEED=1
	@scripts/ensure-postgres.sh
	POWER_SEED=$(or $(SEED),1) POWER_RUNS=$(or $(RUNS),1000) \
		cargo test --package egret-tests --locked --test 'power_cut*' -- --nocapture

faults: ## Let the disk fail in RUNS=1000 more lives of an index, from SEED=1
	FAULT_SEED=$(or $(SEED),1) FAULT_RUNS=$(or $(RUNS),1000) \
		cargo test --package egret-engine --locked store::tests:: -- --nocapture

.PHONY: help demo test bench chaos versions powercut faults
