# Weir's commands. They need Go and nothing else; tools come from tools/go.mod.
.DEFAULT_GOAL := help
SHELL := /bin/bash
export GOWORK := off

# Every module of the repository: the core first.
MODULES := . $(patsubst %/go.mod,%,$(wildcard */go.mod))
# Those with packages of their own.
CODE := $(filter-out tools,$(MODULES))
# The tests of the file backend that crash, damage and break a simulated disk.
CRASHES := TestPowerCuts|TestFaults|TestFailedCompaction|TestSmallLogMatrix|TestProcessDeath|TestFailedReads|TestBackupCrashes|TestSnapshotsAfterPowerCuts|TestTimersBehindTheBeginning
TOOL := go tool -modfile=$(CURDIR)/tools/go.mod

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

test: ## all tests of every module, with the race detector (but for the peers in bench)
	@for m in $(filter-out bench,$(CODE)); do echo "== $$m"; (cd $$m && go test -race ./...) || exit 1; done
	@echo "== crashes, without the race detector: they vary the disk, not the schedule"
	go test -run '$(CRASHES)' -v ./engine/filestore | grep -vE '^(=== |    ? *--- PASS)'; exit $${PIPESTATUS[0]}
	@# The peers without it: to compile them for it takes five minutes of processor time, and no race in them is ours.
	@echo "== bench"; cd bench && go test -race ./contender ./work ./driver ./report && go test . ./peers ./instructions

race: ## the core's concurrency tests, 20 times on 1, 2 and 4 processors
	go test -race -count=20 -cpu 1,2,4 ./actor ./dispatch ./engine/... .

soak: ## the long form of the random, crash and stress tests (SCALE=100); set WEIR_DATA for the large recording
	cd verify && WEIR_SOAK=$(or $(SCALE),100) go test -race -timeout 0 -v ./...
	WEIR_SOAK=$(or $(SCALE),100) go test -race -timeout 0 $$(go list ./engine/... ./examples/... | grep -v /filestore)
	WEIR_SOAK=$(or $(SCALE),100) go test -timeout 0 -v ./engine/filestore # 100: two million power cuts

crash: ## kill a process that appends, ROUNDS=1000 times, and account for every event
	WEIR_CRASH=$(or $(ROUNDS),1000) go test -run 'TestKill' -v -timeout 0 ./engine/filestore

fuzz: ## fuzz every target of every package (FUZZTIME=30s each)
	@grep -rnE '^func Fuzz[A-Za-z]+' --include=*_test.go engine | sed -E 's,/[^/]*:[0-9]+:func (Fuzz[A-Za-z]+).*, \1,' | while read -r pkg f; do \
		echo "== $$pkg $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(or $(FUZZTIME),30s) -fuzzminimizetime 100x "./$$pkg" || exit 1; done

plants: ## plant bugs into the file backend, one by one: a test must find each (docs/planted-bugs.md)
	go test -tags plant -run 'TestPlants' -v -timeout 0 -parallel 2 ./engine/filestore | grep -vE '^(=== )'; exit $${PIPESTATUS[0]}

bench: ## Weir beside others, into docs/bench (about an hour; BENCH="-rounds 1 -full")
	cd bench && go run . $(BENCH)

bench-core: ## benchmarks of the core with their baselines (docs/bench tells how to read them)
	go test -run '^$$' -bench . -benchmem ./actor ./dispatch ./engine

instructions: ## machine instructions an event, counted by valgrind: the figure that a busy machine gives twice
	cd bench && go run ./instructions

cover: ## statement coverage of the core
	go test -coverpkg=./actor,./dispatch,./engine -coverprofile=cover.out ./actor ./dispatch ./engine/... .
	go tool cover -func=cover.out | tail -1

lint: ## gofmt, go vet, staticcheck, import directions
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "gofmt would change: $$unformatted"; exit 1; fi
	@for m in $(CODE); do echo "== vet and staticcheck $$m"; \
		(cd $$m && go vet ./... && $(TOOL) staticcheck ./...) || exit 1; done
	go test -run 'TestImports|TestModules' .

fmt: ## format all Go files
	gofmt -w .

tidy: ## go mod tidy in every module
	@for m in $(MODULES); do (cd $$m && go mod tidy) || exit 1; done

.PHONY: help test race soak crash fuzz plants bench bench-core instructions cover lint fmt tidy
