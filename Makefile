PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
ARGS ?=
COMMA := ,
# Where a GPU answers, everything is set up for CUDA: an environment has one kind of ONNX Runtime.
GPU := $(shell nvidia-smi >/dev/null 2>&1 && echo yes)
SERVE ?= $(if $(GPU),serve-cuda,serve)
DEV ?= $(if $(GPU),bench-cuda$(COMMA)dev-core,dev)
# The images' Python and platform, whatever ours are.
COMPILE = $(BIN)/uv pip compile --quiet --generate-hashes --no-header --no-annotate \
  --python-version 3.13 --python-platform x86_64-manylinux_2_28
# ONNX Runtime's telemetry; the server turns it off itself, tests import ONNX Runtime without it.
export ORT_DISABLE_TELEMETRY = 1

.PHONY: help serve test test-system lint proto requirements bench bench-peers bench-cuda loadtest clean
help:  ## show this
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

serve: $(VENV)/.serve  ## set up what serving needs and serve bundles/en-zh-TW (ARGS="--port 50052")
	$(BIN)/dragoman serve $(ARGS)

test: $(VENV)/.dev  ## set everything up and run the tests
	$(BIN)/python -m pytest $(ARGS)

test-system: $(VENV)/.stack  ## a fresh clone, and docker compose for real (as root; minutes)
	$(BIN)/python -m pytest tests/system $(ARGS)

lint: $(VENV)/.dev  ## formatting, lint, types, import contracts, the contract's style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint proto

proto: $(VENV)/.dev  ## generate dragoman/v1 and Envoy's description of the services from proto/
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=. --grpc_python_out=. \
	  --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	  --mypy_out=. --mypy_grpc_out=. proto/dragoman/v1/*.proto
	$(BIN)/python -m grpc_tools.protoc -Iproto -I"$$($(BIN)/python -c 'from google import rpc; print(*rpc.__path__)')/../.." \
	  --include_imports --descriptor_set_out=deploy/envoy/dragoman.binpb \
	  proto/dragoman/v1/*.proto google/rpc/error_details.proto

requirements: $(VENV)/.stack  ## pin what the images install, with hashes
	$(COMPILE) --extra serve --extra otel --output-file deploy/requirements.txt pyproject.toml
	$(COMPILE) --extra loadtest --constraint deploy/requirements.txt --output-file deploy/requirements-loadtest.txt pyproject.toml
	$(COMPILE) --extra serve-cuda --extra otel --output-file deploy/requirements-cuda.txt pyproject.toml
	echo hatchling | $(COMPILE) --output-file deploy/requirements-build.txt -

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

$(VENV)/.stack: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[$(DEV),stack]'
	touch $@ $(VENV)/.dev $(VENV)/.serve
