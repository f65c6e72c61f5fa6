PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
ARGS ?=
COMMA := ,
# Where a GPU answers, everything is set up for CUDA: an environment has one kind of ONNX Runtime.
GPU := $(shell nvidia-smi >/dev/null 2>&1 && echo yes)
SERVE ?= $(if $(GPU),serve-cuda,serve)
DEV ?= $(if $(GPU),bench-cuda$(COMMA)dev-core,dev)

.PHONY: help serve test lint proto bench bench-peers bench-cuda loadtest clean
help:  ## show this
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

serve: $(VENV)/.serve  ## set up what serving needs and serve bundles/en-zh-TW (ARGS="--port 50052")
	$(BIN)/dragoman serve $(ARGS)

test: $(VENV)/.dev  ## set everything up and run the tests
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.dev  ## formatting, lint, types, import contracts, the contract's style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint proto

proto: $(VENV)/.dev  ## generate dragoman/v1 from proto/
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=. --grpc_python_out=. \
	  --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	  --mypy_out=. --mypy_grpc_out=. proto/dragoman/v1/*.proto

bench: $(VENV)/.dev  ## engine alone and through gRPC, interleaved
	$(BIN)/python -m loadtest.throughput $(ARGS)

bench-peers: $(VENV)/.dev  ## our engine beside CTranslate2, ONNX Runtime and PyTorch (ARGS="--dev DIR")
	$(BIN)/python -m loadtest.peers $(ARGS)

bench-cuda: $(VENV)/$(if $(GPU),.dev,.serve)  ## on a GPU: parity with float32, steps, throughput, peers
	$(BIN)/python -m loadtest.cuda $(ARGS)

loadtest: $(VENV)/.dev  ## latency against load, beside CTranslate2 in three ways (ARGS="--out results")
	$(BIN)/python -m loadtest.peers.load $(ARGS)

clean:  ## remove the environment
	rm -rf $(VENV)

$(VENV)/.serve: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[$(SERVE)]'
	touch $@

$(VENV)/.dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[$(DEV)]'
	touch $@ $(VENV)/.serve
