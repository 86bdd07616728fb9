"""All stand-ins for payment providers in one process: `python -m sandbox.providers --port 8091`."""

from __future__ import annotations

import argparse

import uvicorn
from fastapi import FastAPI

from sandbox import plaid


def create_app() -> FastAPI:
    app = FastAPI(title="Sandbox providers")
    app.include_router(plaid.create_router(secret="dev_plaid"))  # noqa: S106 - the stand-in's

    @app.get("/_ready")
    async def ready() -> dict[str, str]:
        return {"status": "ok"}

    return app


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sandbox.providers")
    parser.add_argument("--port", type=int, default=8091)
    parser.add_argument("--host", default="127.0.0.1")
    options = parser.parse_args()
    uvicorn.run(create_app(), host=options.host, port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
