# The two commands of the README, and what developers type.
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test cover venv schema

demo: venv   ## start everything on this machine and train a classifier
	PATH="$(abspath $(BIN)):$$PATH" headrace run -- python examples/digits/train.py --epochs 5

test: venv   ## lint, types, layers, tests
	PATH="$(abspath $(BIN)):$$PATH" sh scripts/test

cover: venv  ## which lines the pure tests pass through
	$(BIN)/python -m pytest --numprocesses 2 --cov=events --cov=controlplane --cov=runtime --cov=headrace tests/unit

venv:
	@python3 scripts/make_venv.py $(VENV)

schema: venv   ## write events/schema anew from events/messages.py
	$(BIN)/python -m events.schema
