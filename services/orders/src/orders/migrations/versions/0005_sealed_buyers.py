"""How an order's buyer is reached is sealed. The column of what was asked for has another name, so
that no older replica takes a buyer for one without an address."""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from common.db.migrations import seal_rows
from common.security.encryption import SecretBox
from orders import buyers

revision = "0005"
down_revision = "0004"


def _sealed(vault: SecretBox, row: sa.RowMapping) -> dict[str, Any]:
    wanted, contact = buyers.split(row["wanted"])
    return {"wanted": sa.cast(wanted, JSONB), "contact": vault.encrypt(json.dumps(contact))}


def upgrade() -> None:
    op.alter_column("orders", "request", new_column_name="wanted")
    op.add_column("orders", sa.Column("contact", sa.Text))
    seal_rows("orders", ["wanted", "contact"], _sealed)
    op.alter_column("orders", "contact", nullable=False)
