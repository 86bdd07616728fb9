"""What a checkout's request says of the payer is sealed."""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from common.crypto import Vault
from common.migrations import seal_rows
from subscription import payers

revision = "0014"
down_revision = "0013"


def _sealed(vault: Vault, row: sa.RowMapping) -> dict[str, Any]:
    terms, payer = payers.split(row["request"])
    return {"request": sa.cast(terms, JSONB), "payer": vault.seal(json.dumps(payer))}


def upgrade() -> None:
    op.add_column("checkouts", sa.Column("payer", sa.Text))
    seal_rows("checkouts", ["request", "payer"], _sealed)
    op.alter_column("checkouts", "payer", nullable=False)
