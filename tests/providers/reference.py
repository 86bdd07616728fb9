"""The reference of the providers' calls, written from the corpus. With the folder `tests` in
PYTHONPATH, `python -m providers.reference FILE` writes it, and `--check` fails if the file is not
current."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from providers.corpus import PROVIDERS, Case, cases, documented_types

_NAMES = {
    "stripe": "Stripe",
    "square": "Square",
    "plaid": "Plaid",
    "dwolla": "Dwolla",
    "flutterwave": "Flutterwave",
    "fapshi": "Fapshi",
    "mtn-momo": "MTN MoMo",
    "orange-money": "Orange Money",
}
_INTRODUCTION = """# Providers' calls

<!-- Generated from tests/providers/corpus by `make events`: change the corpus instead. -->

Each table lists a provider's documented webhooks, and what they become: the [event](events.md), the
amount in minor units, and the effect. Every row is a case of the corpus in
`tests/providers/corpus`, which was written from the provider's description. A test translates every
case and compares events and amounts; the effects summarize what the services' own tests show. A
version is named where it is not the newest one. Webhooks of other types are recorded in the
journal, as `provider.<provider>.<type>`; they are listed at the end of each section.
"""
_NEWEST = {"2026-10-28.endive"}


def page() -> str:
    return "\n".join([_INTRODUCTION, *(line for name in PROVIDERS for line in _section(name))])


def _section(provider: str) -> Iterator[str]:
    mine = [each for each in cases() if each.provider == provider]
    documented = documented_types()[provider]
    yield f"## {_NAMES[provider]}\n"
    yield f"Types as of {documented['date']}, from {documented['source']}.\n"
    yield "| type | call | becomes | effect |"
    yield "| --- | --- | --- | --- |"
    translated = [each for each in mine if each.group not in {"journaled", "thin"}]
    for each in sorted(translated, key=lambda case: str(case.said["type"])):
        yield _row(each)
    recorded = sorted({each.said["type"] for each in mine} - {e.said["type"] for e in translated})
    if recorded:
        yield f"\nOnly recorded: {', '.join(f'`{each}`' for each in recorded)}.\n"
    else:
        yield ""


def _row(case: Case) -> str:
    said = case.said
    version = f" ({said['version']})" if said.get("version", "") not in {"", *_NEWEST} else ""
    what = f"{said.get('case', '')}{version}".strip()
    becomes = "; ".join(map(_event, said["becomes"]))
    return f"| `{said['type']}` | {what} | {becomes} | {said.get('effect', '')} |"


def _event(becomes: dict[str, object]) -> str:
    amount = becomes.get("amount", becomes.get("amount_refunded"))
    shown = [f"`{becomes['event']}`"]
    if amount is not None:
        shown.append(f"{amount} {becomes.get('currency', '')}".strip())
    if isinstance(becomes.get("status"), str):
        shown.append(f"status `{becomes['status']}`")
    return ", ".join(shown)


def main(arguments: Sequence[str]) -> int:
    check, file = "--check" in arguments, Path(arguments[-1])
    if not check:
        file.write_text(page())
        return 0
    if file.read_text() == page():
        return 0
    print(f"{file} is not current: run `make events`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
