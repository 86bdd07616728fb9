"""`make sbom`: an image's bill of materials is what is installed, from the lock."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import sbom

ROOT = Path(__file__).resolve().parents[2]


def test_a_bill_lists_what_is_installed_and_is_reproducible(tmp_path: Path) -> None:
    program, python = sbom.tool(tmp_path), sbom.install("provisioning", tmp_path)
    bill = sbom.describe(program, python)
    assert bill["bomFormat"] == "CycloneDX"
    uv = Path(sys.executable).parent / "uv"
    listed = subprocess.check_output(
        [uv, "pip", "list", "--python", python, "--format", "json"], text=True
    )
    installed = {(_normal(each["name"]), each["version"]) for each in json.loads(listed)}
    found = {(_normal(each["name"]), each["version"]) for each in bill["components"]}
    assert found == installed
    lock = (ROOT / "requirements.lock").read_text()
    locked = set(re.findall(r"^([\w.-]+)==([\w.]+)", lock, re.MULTILINE))
    assert {each for each in found if not each[0].startswith("paybus-")} <= locked
    assert sbom.describe(program, python) == bill
    assert sbom.refused(sbom.licences(bill)) == []


def _normal(name: str) -> str:
    """https://packaging.python.org/en/latest/specifications/name-normalization/"""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize(
    ("licences", "allowed"),
    [
        (["MIT"], True),
        (["GPL-3.0-only"], False),
        (["AGPL-3.0-or-later"], False),
        (["GPL-2.0-only", "BSD-3-Clause"], True),
        ([], False),
    ],
)
def test_a_package_needs_one_licence_that_is_allowed(licences: list[str], allowed: bool) -> None:
    assert (sbom.refused({"package 1.0": licences}) == []) is allowed
