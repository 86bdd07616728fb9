"""The files that the documentation names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from webhook_gateway.providers import stripe

ROOT = Path(__file__).resolve().parents[2]
WALKS = (ROOT / "docs/explanation/walks.md").read_text()
PACKAGES = {path.name: path for path in ROOT.glob("services/*/src/*") if path.is_dir()}
PACKAGES["common"] = ROOT / "libs/common/src/common"


@pytest.mark.parametrize("walk", re.findall(r"^## (.+)$", WALKS, re.M))
def test_a_walk_leads_through_files_that_exist(walk: str) -> None:
    section = WALKS.partition(f"## {walk}\n")[2].partition("\n## ")[0]
    (listed,) = re.findall(r"^Read: (.+?)(?:\.|\. )\w+ files", section, re.M | re.S)
    files, package = [], ""
    for name in re.findall(r"`([\w/]+\.py)`", listed):
        first, _, rest = name.partition("/")
        package, relative = (first, rest) if first in PACKAGES else (package, name)
        files.append(PACKAGES[package] / relative)
    assert [str(each) for each in files if not each.exists()] == []
    assert len(files) == len({*files})
    counts = {"Nine": 9, "Ten": 10, "Twelve": 12}
    (said,) = re.findall(r"(\w+) files[;,]", section)
    assert counts[said] == len(files)


def test_the_page_lists_the_stripe_events_to_select() -> None:
    page = (ROOT / "docs/guides/providers.md").read_text()
    section = page.partition("select these events")[2]
    listed = section.partition("```text\n")[2].partition("```")[0].split()
    assert sorted(listed) == sorted(stripe.TRANSLATED_TYPES)
