"""The back end that provisioning calls: organizations and their users.

`PUT /_behaviour` tells it to be slow, to fail, to answer 500 after having done the work, or to do
the work and never answer. `GET /_books` shows what it holds and how often each thing was created.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections import Counter
from typing import Annotated, Any, Literal
from uuid import uuid4

import uvicorn
from fastapi import FastAPI, Header, HTTPException, Request, Response
from pydantic import BaseModel, ConfigDict, Field

Key = Annotated[str, Header(alias="Idempotency-Key", min_length=1)]


class Behaviour(BaseModel):
    """How the next calls go. `rate` is the share of them that misbehaves, chosen at random."""

    model_config = ConfigDict(extra="forbid")

    mode: Literal["well", "fail", "fail_after", "hang_after", "refuse", "rate_limit"] = "well"
    rate: float = Field(default=1.0, ge=0, le=1)
    delay_seconds: float = Field(default=0.0, ge=0, le=60)


class NewOrganization(BaseModel):
    reference: str
    name: str


class NewUser(BaseModel):
    email: str
    name: str
    role: Literal["admin", "member"]


class NewStatus(BaseModel):
    status: Literal["active", "suspended"]


class Books:
    """What the back end holds. An idempotency key gives the first answer again."""

    def __init__(self) -> None:
        # Its memory is gone with the process; ids of another run must not come again.
        self._run = uuid4().hex[:8]
        self.organizations: dict[str, dict[str, Any]] = {}
        self.users: dict[str, list[dict[str, Any]]] = {}
        self.answers: dict[str, dict[str, Any]] = {}
        self.created = Counter[str]()  # per reference: more than one is a double
        self.status_changes = Counter[str]()
        self.calls = Counter[str]()

    def create_organization(self, new: NewOrganization, key: str) -> dict[str, Any]:
        if key not in self.answers:
            id_ = f"org_{len(self.organizations) + 1}_{self._run}"
            organization = {"id": id_, "status": "active", **new.model_dump()}
            self.organizations[id_] = self.answers[key] = organization
            self.users[id_] = []
            self.created[new.reference] += 1
        return self.answers[key]

    def create_user(self, organization: str, new: NewUser, key: str) -> dict[str, Any]:
        if key not in self.answers:
            user = {"id": f"{organization}/user_{len(self.users[organization]) + 1}"}
            self.answers[key] = user | new.model_dump()
            self.users[organization].append(self.answers[key])
        return self.answers[key]


def create_app(token: str, *, seed: int = 0) -> FastAPI:
    app = FastAPI(title="Sandbox back end")
    books = Books()
    chance = random.Random(seed)  # noqa: S311 - misbehaviour that can be repeated
    state = {"behaviour": Behaviour()}

    @app.middleware("http")
    async def misbehave(request: Request, proceed: Any) -> Response:
        path = request.url.path
        if path.startswith("/_"):
            return await proceed(request)  # type: ignore[no-any-return]
        if request.headers.get("authorization") != f"Bearer {token}":
            return Response(status_code=401)
        books.calls[f"{request.method} {path.split('/')[-1]}"] += 1
        behaviour = state["behaviour"]
        await asyncio.sleep(behaviour.delay_seconds)
        mode = behaviour.mode if chance.random() < behaviour.rate else "well"
        early = {"fail": (503, {}), "refuse": (422, {}), "rate_limit": (429, {"Retry-After": "1"})}
        if mode in early:
            status, headers = early[mode]
            return Response(f"told to {mode}", status_code=status, headers=headers)
        response: Response = await proceed(request)
        if mode == "fail_after":
            return Response("told to fail after the work", status_code=500)
        if mode == "hang_after":
            await asyncio.sleep(3600)
        return response

    @app.put("/_behaviour")
    async def behave(behaviour: Behaviour) -> Behaviour:
        state["behaviour"] = behaviour
        return behaviour

    @app.get("/_books")
    async def show_books() -> dict[str, Any]:
        return {
            "organizations": list(books.organizations.values()),
            "users": books.users,
            "created": books.created,
            "status_changes": books.status_changes,
            "calls": books.calls,
        }

    @app.get("/organizations")
    async def find_organizations(reference: str) -> dict[str, Any]:
        found = [o for o in books.organizations.values() if o["reference"] == reference]
        return {"items": found}

    @app.post("/organizations", status_code=201)
    async def create_organization(new: NewOrganization, key: Key) -> dict[str, Any]:
        return books.create_organization(new, key)

    @app.get("/organizations/{id_}/users")
    async def find_users(id_: str, email: str) -> dict[str, Any]:
        return {"items": [u for u in books.users.get(id_, []) if u["email"] == email]}

    @app.post("/organizations/{id_}/users", status_code=201)
    async def create_user(id_: str, new: NewUser, key: Key) -> dict[str, Any]:
        if id_ not in books.organizations:
            raise HTTPException(404, "no such organization")
        return books.create_user(id_, new, key)

    @app.put("/organizations/{id_}/status")
    async def set_status(id_: str, new: NewStatus) -> dict[str, Any]:
        if id_ not in books.organizations:
            raise HTTPException(404, "no such organization")
        organization = books.organizations[id_]
        if organization["status"] != new.status:
            books.status_changes[id_] += 1
        organization["status"] = new.status
        return organization

    return app


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sandbox.backend")
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--token", default="sandbox")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    app = create_app(options.token, seed=options.seed)
    uvicorn.run(
        app,
        host=options.host,
        port=options.port,
        log_level="warning",
        timeout_graceful_shutdown=1,  # it may be hanging on purpose
    )


if __name__ == "__main__":
    main()
