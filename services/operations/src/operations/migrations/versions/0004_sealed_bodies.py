"""Messages' bodies are sealed. The columns have other names, so that no older replica sends what is
sealed."""

from alembic import op

from common.db.migrations import seal_rows

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    for table in ("letters", "items"):
        op.alter_column(table, "body", new_column_name="sealed_body")
        seal_rows(
            table,
            ["sealed_body"],
            lambda vault, row: {
                "sealed_body": row["sealed_body"] and vault.seal_bytes(bytes(row["sealed_body"]))
            },
        )
