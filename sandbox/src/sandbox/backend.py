"""Stand-in for the backend API that provisioning calls: organizations and their users.

`PUT /_behaviour` makes it slow, makes it fail, return 500 after having done the work, or do the
work and never respond. `GET /_books` returns its contents and how often each object was created.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import FastAPI, Header, HTTPException, Request, Response
from pydantic import BaseModel

from sandbox import fault_injection
from sandbox.server import serve

Key = Annotated[str, Header(alias="Idempotency-Key", min_length=1)]


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
    """The contents of the backend. An idempotency key returns the first response again."""

    def __init__(self) -> None:
        # The store is lost with the process; ids of another run must not recur.
        self._run = uuid4().hex[:8]
        self.organizations: dict[str, dict[str, Any]] = {}
        self.users: dict[str, list[dict[str, Any]]] = {}
        self.answers: dict[str, dict[str, Any]] = {}
        self.created = Counter[str]()  # per reference: more than one is a duplicate
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

    def count(request: Request) -> None:
        books.calls[f"{request.method} {request.url.path.split('/')[-1]}"] += 1

    fault_injection.install(app, seed=seed, count=count)

    @app.middleware("http")
    async def authorize(
        request: Request, proceed: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        allowed = request.headers.get("authorization") == f"Bearer {token}"
        if allowed or request.url.path.startswith("/_"):
            return await proceed(request)
        return Response(status_code=401)

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
    serve(app, options.host, options.port)


if __name__ == "__main__":
    main()
