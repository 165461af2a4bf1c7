# signin-engine. `make help` lists the targets.

GO      ?= go
BIN     := bin
LINT    := $(BIN)/golangci-lint
LINT_VERSION := v2.15.0
VULN_VERSION := v1.9.0
PKGS    := ./...
RUNS    ?= 100000
SEED    ?= 0
STATES  ?= 100000
FUZZ_TIME ?= 60s

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/signin-engine
	$(GO) build -trimpath -o $(BIN)/signin-engine ./cmd/signin-engine

.PHONY: run
run: build ## a running sign-in on this machine: no Azure, no database
	$(BIN)/signin-engine dev

.PHONY: test
test: verify lint ## everything that must pass: brings its own Postgres, browser and linter
	./.ci/postgres
	./.ci/chromium
	./.ci/deploy
	$(GO) test -race -shuffle=on -timeout 18m $(PKGS)

.PHONY: test-short
test-short: ## the inner loop: without servers that fail, killed processes and browsers
	./.ci/postgres
	$(GO) test -short -timeout 5m $$($(GO) list $(PKGS) | grep -v /e2e$$)

.PHONY: verify
verify: ## what is generated is up to date, code is formatted and vetted
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo 'gofmt differs'; exit 1; }
	$(GO) vet $(PKGS)
	$(GO) mod tidy -diff
	@mkdir -p $(BIN)/diagrams && cp docs/state-machine.md $(BIN)/state-machine.md
	@$(GO) run ./diagrams/draw $(BIN)/diagrams $(BIN)/state-machine.md
	@for f in $(BIN)/diagrams/*; do cmp $$f diagrams/$${f##*/} || { echo 'diagrams/ differ from the table: make generate'; exit 1; }; done
	@cmp $(BIN)/state-machine.md docs/state-machine.md || { echo 'docs/state-machine.md differs from the table: make generate'; exit 1; }
	@$(MAKE) --no-print-directory vuln

.PHONY: vuln
vuln: ## known vulnerabilities of what is called, where their data can be had
	@GO=$(GO) ./.ci/vuln $(VULN_VERSION)

.PHONY: generate
generate: ## draw diagrams/ and the tables of docs/ from the table and the words
	$(GO) run ./diagrams/draw diagrams docs/state-machine.md
	$(GO) test ./docs -run TestWords -rewrite -count=1

.PHONY: lint
lint: $(LINT) ## golangci-lint with the project's rules
	$(LINT) run --allow-parallel-runners $(PKGS)

$(LINT):
	GOBIN=$(CURDIR)/$(BIN) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)

.PHONY: fuzz
fuzz: ## FUZZ_TIME of each fuzz test (the corpora run in make test)
	@set -e; for pkg in ./store ./store/boltstore/internal/kv ./transport/teams ./tokensvc ./machine; do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep ^Fuzz); do \
			echo "$$pkg $$f"; $(GO) test $$pkg -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZ_TIME); \
		done; \
	done

.PHONY: simulate
simulate: ## RUNS runs of the simulation with seeds that are new each time, or the one of SEED with its trace
	$(GO) test ./machine -run 'TestSimulation$$' -count=1 -timeout 120m -v -sim.runs=$(RUNS) -sim.from=0 -sim.seed=$(SEED)

.PHONY: powerloss
powerloss: ## build and open STATES states of a bbolt store after a power loss
	$(GO) test ./store/boltstore/internal/kv -run 'TestPowerLoss$$' -count=1 -timeout 120m -v -power.states=$(STATES)

.PHONY: scenarios
scenarios: ## write the scenarios anew with what came of them
	$(GO) test ./machine -run TestScenarios -rewrite

.PHONY: bench
bench: ## measure against a bare handler; writes bench/RESULTS.md
	$(GO) run ./bench -rounds 5 -duration 1s -o bench

.PHONY: clean
clean: ## remove what was built
	rm -rf $(BIN)
