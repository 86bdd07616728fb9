"""localstripe, a third-party Stripe emulator, as a process that listens on loopback only.

Its own command listens on every interface and writes its complete store to one file in /tmp after
each call, which two copies would share and which slows it down with every object.
"""

from __future__ import annotations

import argparse

from aiohttp import web
from localstripe.resources import store
from localstripe.server import app

from sandbox.stripe import billing, checkout, objects, payments, webhook_endpoints


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sandbox.stripe.app")
    parser.add_argument("--port", type=int, default=8420)
    options = parser.parse_args()
    store.dump_to_disk = lambda: None
    objects.install()
    billing.install(app)
    payments.install(app)
    webhook_endpoints.install(app)
    checkout.install(app)
    web.run_app(
        app,
        host="127.0.0.1",
        port=options.port,
        shutdown_timeout=1,  # a request may hang on purpose
        print=None,
        access_log=None,
    )


if __name__ == "__main__":
    main()
