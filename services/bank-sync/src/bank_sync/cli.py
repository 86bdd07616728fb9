"""`paybus-bank-sync`: what needs the database itself, by DATABASE_URL and ENCRYPTION_KEYS.

Status: 0 well, 1 something is wrong, 2 wrongly called.
"""

from __future__ import annotations

import asyncio
import sys

import typer
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from bank_sync.models import Item
from bank_sync.tenancy import Tenancy
from common import database
from common.crypto import EncryptionSettings, Unreadable, Vault, new_key
from common.errors import PaybusError
from common.settings import DatabaseSettings, load

app = typer.Typer(
    help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
)

_BATCH = 500


class _Settings(DatabaseSettings, EncryptionSettings):
    pass


def main() -> None:
    try:
        app()
    except PaybusError as error:
        fault = str(error)
    except SQLAlchemyError as error:
        fault = f"the database can't be used: {str(error.__cause__ or error).splitlines()[0]}"
    else:
        return
    typer.echo(fault, err=True)
    sys.exit(1)


@app.command("new-key")
def new_key_() -> None:
    """Print a key for ENCRYPTION_KEYS."""
    typer.echo(new_key())


@app.command("rotate-keys")
def rotate_keys() -> None:
    """Seal every access token with the first of ENCRYPTION_KEYS; the others may go then."""
    renewed, unreadable = asyncio.run(_rotate(load(_Settings)))
    typer.echo(f"{renewed} sealed anew")
    for item in unreadable:
        typer.echo(f"no key opens the token of item {item}: link that bank anew", err=True)
    if unreadable:
        sys.exit(1)


async def _rotate(settings: _Settings) -> tuple[int, list[str]]:
    """How many, and the items whose token no key opens."""
    vault = Vault(settings.encryption_keys)
    renewed, unreadable, after = 0, list[str](), ""
    async with database.engine(settings) as engine:
        tenancy = Tenancy(database.sessions_of(engine))
        while True:
            async with tenancy.begin(None) as session:
                query = select(Item).where(Item.id > after, Item.access_token != "")
                query = query.order_by(Item.id).limit(_BATCH).with_for_update()
                found = (await session.scalars(query)).all()
                for row in found:
                    try:
                        sealed = vault.renew(row.access_token)
                    except Unreadable:
                        unreadable.append(row.id)
                        continue
                    if sealed is not None:
                        row.access_token = sealed
                        renewed += 1
            if len(found) < _BATCH:
                return renewed, unreadable
            after = found[-1].id


if __name__ == "__main__":
    main()
