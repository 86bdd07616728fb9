"""Orders, their money and exchange rates."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from common.db.migrations import create_messaging_tables, create_tenant_table

revision = "0001"
down_revision = None

_TIME = sa.DateTime(timezone=True)
_NOW = sa.func.now()


def upgrade() -> None:
    create_messaging_tables()
    _create_orders()
    _create_order_lines()
    _create_seller_shares()
    _create_payments()
    _create_refunds()
    _create_tenant_terms()
    _create_exchange_rates()


def _create_orders() -> None:
    create_tenant_table(
        "orders",
        sa.Column("reference", sa.Text, nullable=False),
        sa.Column("idempotency_key", sa.Text, nullable=False),
        sa.Column("request", JSONB, nullable=False),
        sa.Column("contact", sa.Text, nullable=False),
        sa.Column("buyer", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("total", sa.BigInteger, nullable=False),
        sa.Column("terms", JSONB, nullable=False),
        sa.Column("pay_by", _TIME, nullable=False),
        sa.Column("reminded_at", _TIME),
        sa.Column("paid_at", _TIME),
        sa.Column("paid_by", sa.Text),
        sa.Column("refunded", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("cancelled_at", _TIME),
        sa.Column("cancelled_by", sa.Text),
        sa.Column("fulfilled_at", _TIME),
        sa.Column("release_at", _TIME),
        sa.Column("released_at", _TIME),
        sa.Column("due_at", _TIME),
        sa.Column("version", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("updated_at", _TIME, nullable=False, server_default=_NOW),
    )
    op.create_index("orders_page", "orders", ["tenant", "created_at", "id"])
    op.create_index("orders_state", "orders", ["tenant", "state", "created_at", "id"])
    op.create_index("orders_reference", "orders", ["tenant", "reference"])
    op.create_index(
        "orders_due", "orders", ["due_at"], postgresql_where=sa.text("due_at IS NOT NULL")
    )


def _create_order_lines() -> None:
    create_tenant_table(
        "order_lines",
        sa.Column("order_id", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("seller", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("quantity", sa.BigInteger, nullable=False),
        sa.Column("original_amount", sa.BigInteger, nullable=False),
        sa.Column("original_currency", sa.Text, nullable=False),
        sa.Column("rate", sa.Numeric, nullable=False),
        sa.Column("rate_day", sa.Date),
        sa.Column("rate_source", sa.Text),
        sa.Column("amount", sa.BigInteger, nullable=False),
    )
    op.create_index("order_lines_order", "order_lines", ["order_id", "number"])


def _create_seller_shares() -> None:
    create_tenant_table(
        "seller_shares",
        sa.Column("order_id", sa.Text, nullable=False),
        sa.Column("seller", sa.Text, nullable=False),
        sa.Column("gross", sa.BigInteger, nullable=False),
        sa.Column("fee_basis_points", sa.Integer, nullable=False),
        sa.Column("refunded", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("requested", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("requests", sa.Integer, nullable=False, server_default="0"),
        sa.CheckConstraint("refunded >= 0 AND refunded <= gross", name="seller_shares_refunded"),
    )
    op.create_index("seller_shares_order", "seller_shares", ["order_id"])
    op.create_index("seller_shares_seller", "seller_shares", ["tenant", "seller", "created_at"])


def _create_payments() -> None:
    create_tenant_table(
        "payments",
        sa.Column("order_id", sa.Text, nullable=False),
        sa.Column("checkout_id", sa.Text, nullable=False),
        sa.Column("charge", sa.Text),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("url", sa.Text),
        sa.Column("amount", sa.BigInteger),
        sa.Column("currency", sa.Text),
        sa.Column("decision", sa.Text),
        sa.Column("completed_at", _TIME),
    )
    op.create_index("payments_order", "payments", ["order_id"])


def _create_refunds() -> None:
    create_tenant_table(
        "refunds",
        sa.Column("order_id", sa.Text, nullable=False),
        sa.Column("payment_id", sa.Text, nullable=False),
        sa.Column("checkout_id", sa.Text, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("parts", JSONB, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("requests", sa.Integer, nullable=False, server_default="1"),
        sa.Column("reports", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("created_by", sa.Text),
        sa.Column("provider_refund_id", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("completed_at", _TIME),
    )
    op.create_index("refunds_order", "refunds", ["order_id"])
    op.create_index("refunds_page", "refunds", ["tenant", "state", "created_at", "id"])


def _create_tenant_terms() -> None:
    op.create_table(
        "tenant_terms",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("terms", JSONB, nullable=False),
        sa.Column("changed_by", sa.Text, nullable=False),
        sa.Column("changed_at", _TIME, nullable=False, server_default=_NOW),
    )


def _create_exchange_rates() -> None:
    op.create_table(
        "exchange_rates",
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("currency", sa.Text, primary_key=True),
        sa.Column("rate", sa.Numeric, nullable=False),
        sa.Column("stored_at", _TIME, nullable=False, server_default=_NOW),
        sa.CheckConstraint("rate > 0", name="exchange_rates_positive"),
    )
