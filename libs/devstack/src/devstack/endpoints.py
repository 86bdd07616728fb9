"""The endpoints file of a development machine: every provider, with secrets that guard nothing."""

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
    """Every provider; `sandbox` and `stripe` are the URLs of the stand-ins that are asked."""
    options: dict[str, dict[str, str]] = {
        "stripe": {"api_key": "sk_test_development", "base_url": stripe},
        "square": {"notification_url": SQUARE_URL},
        "plaid": {
            "client_id": "development",
            "secret": PLAID_SECRET,
            "base_url": f"{sandbox}/plaid",
        },
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
    return [
        {
            "provider": name,
            "tenant": TENANT,
            "secrets": [SECRETS[name]] if name in SECRETS else [],
            "options": options.get(name, {}),
        }
        for name in sorted(SECRETS.keys() | options.keys())
    ]


def write(path: Path, endpoints: Sequence[Mapping[str, Any]]) -> Path:
    """Replaces the file at once: whoever watches it never reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(".new")
    whole.touch(mode=0o600)
    whole.write_text("\n".join(_table(each) for each in endpoints))
    whole.replace(path)
    return path


def _table(endpoint: Mapping[str, Any]) -> str:
    # JSON's strings and lists of them are TOML's too.
    lines = ["[[endpoint]]"]
    lines += [f"{k} = {json.dumps(v)}" for k, v in endpoint.items() if k != "options"]
    if options := endpoint.get("options"):
        lines.append("[endpoint.options]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in options.items()]
    return "\n".join(lines) + "\n"
