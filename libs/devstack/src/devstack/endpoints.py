"""The endpoints and accounts files of a development machine: every provider, with secrets that
guard nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TENANT = "default"
SQUARE_URL = "http://127.0.0.1:8000/webhooks/square"

# By the provider's name; those that are missing have none.
SECRETS: Mapping[str, str] = {
    "stripe": "whsec_development_only",
    "fapshi": "fapshi_development_only",
    "flutterwave": "flutterwave_development_only",
    "square": "square_development_only",
    "dwolla": "dwolla_development_only",
}
PLAID_SECRET = "plaid_development_only"  # noqa: S105 - likewise


def development(sandbox: str, stripe: str) -> list[dict[str, Any]]:
    """An endpoint for every provider; `sandbox` and `stripe` are the URLs of the stand-ins that
    are asked."""
    options = _credentials(sandbox, stripe) | {
        "square": {"notification_url": SQUARE_URL},
        "plaid": {
            "client_id": "development",
            "secret": PLAID_SECRET,
            "base_url": f"{sandbox}/plaid",
        },
    }
    return [
        {
            "provider": name,
            "tenant": TENANT,
            "secrets": [SECRETS[name]] if name in SECRETS else [],
            "options": options.get(name, {}),
        }
        for name in sorted(SECRETS.keys() | options.keys())
    ]


def development_accounts(sandbox: str, stripe: str, gateway: str) -> list[dict[str, Any]]:
    """An account with everyone who can start a checkout; `gateway` is the URL that callbacks are
    sent to."""
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
    """For the APIs of those at whom payments are started and asked about."""
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
    """Replaces the file at once: whoever watches it never reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(".new")
    whole.touch(mode=0o600)
    whole.write_text("\n".join(_table(kind, each) for each in tables))
    whole.replace(path)
    return path


def _table(kind: str, table: Mapping[str, Any]) -> str:
    # JSON's strings and lists of them are TOML's too.
    lines = [f"[[{kind}]]"]
    lines += [f"{k} = {json.dumps(v)}" for k, v in table.items() if k != "options"]
    if options := table.get("options"):
        lines.append(f"[{kind}.options]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in options.items()]
    return "\n".join(lines) + "\n"
