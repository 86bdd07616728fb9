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
_OPTIONS: Mapping[str, Mapping[str, str]] = {"square": {"notification_url": SQUARE_URL}}


def development(plaid_url: str | None = None) -> list[dict[str, Any]]:
    """`plaid_url` is where Plaid's keys are asked for; without, Plaid is not served."""
    names = [*SECRETS, "mtn-momo", "orange-money"]
    options: dict[str, Mapping[str, str]] = dict(_OPTIONS)
    if plaid_url is not None:
        names.append("plaid")
        options["plaid"] = {"client_id": "dev", "secret": "dev_plaid", "base_url": plaid_url}
    return [
        {
            "provider": name,
            "tenant": TENANT,
            "secrets": [SECRETS[name]] if name in SECRETS else [],
            "options": options.get(name, {}),
        }
        for name in names
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
