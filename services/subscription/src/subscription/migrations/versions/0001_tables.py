"""Subscriptions, payments, checkouts and billing commands."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from common.db.migrations import (
    create_circuit_breakers,
    create_messaging_tables,
    create_tenant_table,
)

revision = "0001"
down_revision = None

_TIME = sa.DateTime(timezone=True)
_NOW = sa.func.now()


def upgrade() -> None:
    create_messaging_tables()
    create_circuit_breakers()
    _create_customers()
    _create_plans()
    _create_subscriptions()
    _create_payments()
    _create_reversals()
    _create_checkouts()
    _create_refunds()
    _create_billing_commands()
    _create_entitlement_policies()


def _create_customers() -> None:
    create_tenant_table(
        "customers",
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("provider_customer_id", sa.Text, nullable=False),
        sa.Column("email", sa.Text),
        sa.Column("email_at", _TIME),
        sa.Column("email_event_id", sa.Text),
        sa.Column("name", sa.Text),
        sa.Column("name_at", _TIME),
        sa.Column("name_event_id", sa.Text),
        sa.Column("version", sa.Integer, nullable=False, server_default="0"),
    )
    op.create_index("customers_page", "customers", ["tenant", "created_at", "id"])
    op.create_index("customers_named", "customers", ["tenant", "provider_customer_id"])


def _create_plans() -> None:
    create_tenant_table(
        "plans",
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("provider_plan_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("amount", sa.BigInteger),
        sa.Column("currency", sa.Text),
        sa.Column("interval", sa.Text),
        sa.Column("seen_at", _TIME, nullable=False),
        sa.Column("seen_event_id", sa.Text, nullable=False),
    )
    op.create_index("plans_page", "plans", ["tenant", "created_at", "id"])


def _create_subscriptions() -> None:
    create_tenant_table(
        "subscriptions",
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("provider_subscription_id", sa.Text, nullable=False),
        sa.Column("customer_id", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False, server_default="incomplete"),
        sa.Column("phase", sa.Text, nullable=False, server_default="unused"),
        sa.Column("plan_id", sa.Text),
        sa.Column("items", JSONB, nullable=False, server_default="[]"),
        sa.Column("current_period_end", _TIME),
        sa.Column("cancel_at_period_end", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("cancel_at", _TIME),
        sa.Column("ever_active", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("snapshot_at", _TIME),
        sa.Column("snapshots", JSONB, nullable=False, server_default="[]"),
        sa.Column("statuses", JSONB, nullable=False, server_default="[]"),
        sa.Column("payment_at", _TIME),
        sa.Column("payment_event_id", sa.Text),
        sa.Column("payment_paid", sa.Boolean),
        sa.Column("due_at", _TIME),
        sa.Column("policy_version", sa.Integer, nullable=False, server_default="0"),
        sa.Column("reminder_sent_for", _TIME),
        sa.Column("cancel_when", sa.Text),
        sa.Column("cancel_requested_at", _TIME),
        sa.Column("forfeited_until", _TIME),
        sa.Column("version", sa.Integer, nullable=False, server_default="0"),
        sa.Column("updated_at", _TIME, nullable=False, server_default=_NOW),
    )
    op.create_index("subscriptions_page", "subscriptions", ["tenant", "created_at", "id"])
    op.create_index(
        "subscriptions_status", "subscriptions", ["tenant", "status", "created_at", "id"]
    )
    op.create_index("subscriptions_customer", "subscriptions", ["tenant", "customer_id"])
    op.create_index(
        "subscriptions_due",
        "subscriptions",
        ["due_at"],
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index(
        "subscriptions_judged",
        "subscriptions",
        ["tenant", "policy_version"],
        postgresql_where=sa.text("status IN ('past_due', 'unpaid', 'paused')"),
    )


def _create_payments() -> None:
    create_tenant_table(
        "payments",
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("provider_payment_id", sa.Text, nullable=False),
        sa.Column("customer_id", sa.Text),
        sa.Column("subscription_id", sa.Text),
        sa.Column("paid", sa.Boolean),
        sa.Column("reported_at", _TIME),
        sa.Column("reported_event_id", sa.Text),
        sa.Column("amount", sa.BigInteger),
        sa.Column("currency", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("references", ARRAY(sa.Text), nullable=False, server_default="{}"),
    )
    op.create_index("payments_page", "payments", ["tenant", "created_at", "id"])
    op.create_index("payments_subscription", "payments", ["tenant", "subscription_id"])


def _create_reversals() -> None:
    create_tenant_table(
        "reversals",
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("references", ARRAY(sa.Text), nullable=False),
        sa.Column("reported_at", _TIME, nullable=False),
    )
    op.create_index("reversals_references", "reversals", ["references"], postgresql_using="gin")


def _create_checkouts() -> None:
    create_tenant_table(
        "checkouts",
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("idempotency_key", sa.Text, nullable=False),
        sa.Column("terms", JSONB, nullable=False),
        sa.Column("payer", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("amount", sa.BigInteger),
        sa.Column("currency", sa.Text),
        sa.Column("customer_id", sa.Text),
        sa.Column("subscription_id", sa.Text),
        sa.Column("reference", sa.Text),
        sa.Column("url", sa.Text),
        sa.Column("expires_at", _TIME),
        sa.Column("error", sa.Text),
        sa.Column("paid_at", _TIME),
        sa.Column("reported_at", _TIME),
        sa.Column("reported_event_id", sa.Text),
        sa.Column("updated_at", _TIME, nullable=False, server_default=_NOW),
    )
    op.create_index("checkouts_page", "checkouts", ["tenant", "created_at", "id"])
    op.create_index("checkouts_reference", "checkouts", ["reference"])
    op.create_index("checkouts_subscription", "checkouts", ["subscription_id"])
    op.create_index(
        "checkouts_payer", "checkouts", ["tenant", sa.text("(terms #>> '{customer,reference}')")]
    )


def _create_refunds() -> None:
    create_tenant_table(
        "refunds",
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("checkout_id", sa.Text, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="1"),
        sa.Column("requests", sa.Integer, nullable=False, server_default="1"),
        sa.Column("reports", sa.Integer, nullable=False, server_default="0"),
        sa.Column("provider_refund_id", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("updated_at", _TIME, nullable=False, server_default=_NOW),
    )
    op.create_index("refunds_checkout", "refunds", ["checkout_id"])


def _create_billing_commands() -> None:
    create_tenant_table(
        "billing_commands",
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("idempotency_key", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("request", JSONB, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="1"),
        sa.Column("result", JSONB),
        sa.Column("error", sa.Text),
        sa.Column("begun", sa.Integer, nullable=False, server_default="0"),
        sa.Column("ended", sa.Integer, nullable=False, server_default="0"),
        sa.Column("unanswered_at", _TIME),
        sa.Column("accepted_at", _TIME),
        sa.Column("confirmed_at", _TIME),
        sa.Column("updated_at", _TIME, nullable=False, server_default=_NOW),
    )
    op.create_index("billing_commands_page", "billing_commands", ["tenant", "created_at", "id"])
    op.create_index(
        "billing_commands_unconfirmed",
        "billing_commands",
        ["tenant", "subject"],
        postgresql_where=sa.text("confirmed_at IS NULL"),
    )
    op.create_index(
        "billing_commands_unfinished",
        "billing_commands",
        ["updated_at"],
        postgresql_where=sa.text("status IN ('open', 'accepted')"),
    )


def _create_entitlement_policies() -> None:
    op.create_table(
        "entitlement_policies",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("policy", JSONB, nullable=False),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
        sa.Column("changed_by", sa.Text, nullable=False),
        sa.Column("changed_at", _TIME, nullable=False, server_default=_NOW),
    )
