"""What a checkout's request says of the payer is sealed. The column of its terms has another name,
so that no older replica takes a payer for one without an address."""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from common.db.migrations import seal_rows
from common.security.encryption import SecretBox
from subscription.checkouts import payers

revision = "0014"
down_revision = "0013"


def _sealed(vault: SecretBox, row: sa.RowMapping) -> dict[str, Any]:
    terms, payer = payers.split(row["terms"])
    return {"terms": sa.cast(terms, JSONB), "payer": vault.encrypt(json.dumps(payer))}


def upgrade() -> None:
    op.alter_column("checkouts", "request", new_column_name="terms")
    op.add_column("checkouts", sa.Column("payer", sa.Text))
    seal_rows("checkouts", ["terms", "payer"], _sealed)
    op.alter_column("checkouts", "payer", nullable=False)
