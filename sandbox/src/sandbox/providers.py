"""All stand-ins for payment providers in one process: `python -m sandbox.providers --port 8091`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping

from fastapi import FastAPI

from sandbox import fault_injection, rates, square_dwolla
from sandbox.mobile_money.routes import create_router as mobile_money
from sandbox.mobile_money.store import MobileMoney
from sandbox.payout_providers.routes import create_router as payout_providers
from sandbox.payout_providers.store import Payouts
from sandbox.plaid import keys as plaid_keys
from sandbox.plaid import routes as plaid
from sandbox.plaid.bank import Bank
from sandbox.server import serve
from sandbox.square_dwolla import Books


def create_app(
    secrets: Mapping[str, str], *, public_url: str, square_url: str, seed: int = 0
) -> FastAPI:
    """Create the application. `secrets` are those of callbacks by provider, and Plaid's API secret;
    `square_url` is the notification URL that Square signs."""
    app = FastAPI(title="Sandbox providers")
    fault_injection.install(app, seed=seed, count=lambda _: None)
    money = MobileMoney(secrets, seed=seed)
    keys = plaid_keys.Keys()
    app.include_router(plaid_keys.create_router(keys, secrets["plaid"]))
    bank, teller = Bank(seed), plaid.PlaidWebhooks(keys, money.postman)
    app.include_router(plaid.create_router(bank, teller, secrets["plaid"]))
    app.include_router(plaid.create_controls(bank, teller))
    plaid.answer_faults(app)
    app.include_router(mobile_money(money, public_url))
    paying = Payouts(
        {**secrets} | {"stripe": secrets["stripe-payouts"], "fapshi": secrets["fapshi-payouts"]},
        postman=money.postman,
        seed=seed,
    )
    app.include_router(payout_providers(paying))
    app.include_router(rates.create_router())
    app.include_router(square_dwolla.create_router(Books(money.postman, secrets, square_url)))

    @app.get("/_ready")
    async def ready() -> dict[str, str]:
        return {"status": "ok"}

    return app


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sandbox.providers")
    parser.add_argument("--port", type=int, default=8091)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--secrets", type=json.loads, required=True, help="by provider, as JSON")
    parser.add_argument("--square-url", default="", help="the notification URL of its webhooks")
    options = parser.parse_args()
    app = create_app(
        options.secrets,
        public_url=f"http://{options.host}:{options.port}",
        square_url=options.square_url,
        seed=options.seed,
    )
    serve(app, options.host, options.port)


if __name__ == "__main__":
    main()
