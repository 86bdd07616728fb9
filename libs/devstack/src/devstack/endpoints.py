"""The endpoints and accounts files of a development machine: every provider, with secrets that
protect nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TENANT = "default"
SQUARE_URL = "http://127.0.0.1:8000/webhooks/square"

# By the provider's name; providers that are missing have no secret.
SECRETS: Mapping[str, str] = {
    "stripe": "whsec_development_only",
    "fapshi": "fapshi_development_only",
    "flutterwave": "flutterwave_development_only",
    "square": "square_development_only",
    "dwolla": "dwolla_development_only",
    "stripe-payouts": "whsec_payouts_development_only",
    "fapshi-payouts": "fapshi_payouts_development_only",
}
# Endpoints in addition to a provider's first one, for accounts that pay out.
_PAYING = {"stripe": {"mode": "test"}, "fapshi": {"payouts_only": True}}
# Protects nothing either.
ENCRYPTION_KEY = "ZGV2ZWxvcG1lbnQtb25seS1rZXktMzItYnl0ZXMtbG8="
_DWOLLA_ACCOUNT = "ca32853c-48fa-40be-ae75-77b37504581b"
_DWOLLA_SOURCE = "707177c3-bf15-4e7e-b37c-55c3898d9bf4"
PLAID_CLIENT = "development"
PLAID_SECRET = "plaid_development_only"  # noqa: S105 - a secret of the stand-in


def development(sandbox: str, stripe: str) -> list[dict[str, Any]]:
    """Return an endpoint for every provider; `sandbox` and `stripe` are the URLs of the stand-ins
    to query."""
    options = _credentials(sandbox, stripe) | {
        "square": {"notification_url": SQUARE_URL},
        "plaid": _plaid(sandbox),
    }
    first = [
        {
            "provider": name,
            "tenant": TENANT,
            "secrets": [SECRETS[name]] if name in SECRETS else [],
            "options": options.get(name, {}),
        }
        for name in sorted(SECRETS.keys() | options.keys())
        if not name.endswith("-payouts")
    ]
    paying = [
        {
            "provider": name,
            "name": "payouts",
            "tenant": TENANT,
            "secrets": [SECRETS[f"{name}-payouts"]],
            "options": options,
        }
        for name, options in _PAYING.items()
    ]
    return first + paying


def payout_accounts(sandbox: str, **more: Any) -> list[dict[str, Any]]:
    """Return an account at each payout provider; `more` options apply to all of them."""
    dollars = {"limits": {"USD": 1_000_000}, "approval_threshold": {"USD": 100_000}}
    francs = {"limits": {"XAF": 5_000_000}, "approval_threshold": {"XAF": 1_000_000}}
    options: dict[str, dict[str, Any]] = {
        "stripe": dollars
        | {"api_key": "sk_test_payouts", "base_url": f"{sandbox}/stripe"}
        | {"limits": dollars["limits"] | {"HUF": 30_000_000, "ISK": 100_000}},
        "dwolla": dollars
        | {
            "key": "development",
            "secret": "dwolla_api_development",
            "account_id": _DWOLLA_ACCOUNT,
            "funding_source": _DWOLLA_SOURCE,
            "base_url": f"{sandbox}/dwolla",
        },
        "fapshi": francs
        | {
            "api_user": "development",
            "api_key": "fapshi_payouts_api_development",
            "base_url": f"{sandbox}/fapshi",
        },
        "square": {"limits": {"USD": 1_000_000}}
        | {"access_token": "square_api_development", "base_url": f"{sandbox}/square"},
    }
    return [
        {
            "provider": name,
            "name": "payouts" if name in _PAYING else "default",
            "tenant": TENANT,
            "options": each | (more if name != "square" else {}),
        }
        for name, each in options.items()
    ]


def bank_accounts(sandbox: str, gateway: str, **more: Any) -> list[dict[str, Any]]:
    """Return the client at Plaid; `gateway` is the base URL of its webhooks, `more` are options."""
    options = _plaid(sandbox) | {"webhook": f"{gateway}/webhooks/plaid"}
    return [{"provider": "plaid", "tenant": TENANT, "options": options | more}]


def _plaid(sandbox: str) -> dict[str, str]:
    return {
        "client_id": PLAID_CLIENT,
        "secret": PLAID_SECRET,
        "base_url": f"{sandbox}/plaid",
    }


def development_accounts(sandbox: str, stripe: str, gateway: str) -> list[dict[str, Any]]:
    """Return an account at each checkout provider; `gateway` is the base URL of callbacks."""
    callbacks = {
        name: {"callback_url": f"{gateway}/webhooks/{name}"}
        for name in ("mtn-momo", "orange-money")
    }
    callbacks["orange-money"]["merchant_key"] = "orange_merchant_development"
    return [
        {"provider": name, "tenant": TENANT, "options": options | callbacks.get(name, {})}
        for name, options in _credentials(sandbox, stripe).items()
    ]


def _credentials(sandbox: str, stripe: str) -> dict[str, dict[str, str]]:
    """Return the credentials for the APIs at which payments are started and queried."""
    return {
        "stripe": {"api_key": "sk_test_development", "base_url": stripe},
        "fapshi": {
            "api_user": "development",
            "api_key": "fapshi_api_development",
            "base_url": f"{sandbox}/fapshi",
        },
        "mtn-momo": {
            "subscription_key": "mtn_key_development",
            "api_user": "development",
            "api_key": "mtn_api_development",
            "base_url": f"{sandbox}/mtn-momo",
        },
        "orange-money": {
            "client_id": "development",
            "client_secret": "orange_development_only",
            "base_url": f"{sandbox}/orange-money",
        },
        "flutterwave": {
            "secret_key": "flutterwave_api_development",
            "base_url": f"{sandbox}/flutterwave/v3",
        },
    }


def write(path: Path, tables: Sequence[Mapping[str, Any]], *, kind: str = "endpoint") -> Path:
    """Replace the file atomically, so that a process that watches it never reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(".new")
    whole.touch(mode=0o600)
    whole.write_text("\n".join(_table(kind, each) for each in tables))
    whole.replace(path)
    return path


def _table(kind: str, table: Mapping[str, Any]) -> str:
    # Strings and lists of strings have the same syntax in JSON and TOML.
    lines = [f"[[{kind}]]"]
    lines += [f"{k} = {json.dumps(v)}" for k, v in table.items() if k != "options"]
    if options := table.get("options"):
        lines.append(f"[{kind}.options]")
        lines += [f"{key} = {_value(value)}" for key, value in options.items()]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(each)}" for key, each in value.items()) + " }"
    return json.dumps(value)
