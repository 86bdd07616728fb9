"""The faults that prevent a release."""

from __future__ import annotations

import pytest

from release_check import faults

GOOD = """# Changelog

## [Unreleased]

## [0.2.0] - 2026-11-30

### Added

- All of it.

[Unreleased]: https://example.com/compare
[0.2.0]: https://example.com/v0.2.0
"""
VERSIONS = {"pyproject.toml": "0.2.0", "sandbox/pyproject.toml": "0.2.0"}


def test_a_tree_that_can_be_tagged_has_no_fault() -> None:
    assert [*faults(GOOD, VERSIONS, {"v0.1.0"})] == []


@pytest.mark.parametrize(
    ("changelog", "versions", "tags", "fault"),
    [
        (GOOD, VERSIONS | {"sandbox/pyproject.toml": "0.1.0"}, set(), "differ"),
        (GOOD, dict.fromkeys(VERSIONS, "0.3.0"), set(), "newest release is not 0.3.0"),
        (GOOD.replace("2026-11-30", "2999-01-01"), VERSIONS, set(), "is dated 2999"),
        (GOOD.replace("2026-11-30", "2026-13-30"), VERSIONS, set(), "newest release|is dated"),
        (GOOD.replace("[0.2.0]: ", ""), VERSIONS, set(), "no link"),
        (GOOD.replace("## [Unreleased]\n", ""), VERSIONS, set(), "no section"),
        (GOOD.replace("d]\n\n## [0", "d]\n\n- new\n\n## [0"), VERSIONS, set(), "not empty"),
        (GOOD.replace("### Added", "### News"), VERSIONS, set(), "no section of Keep"),
        (GOOD, VERSIONS, {"v0.2.0"}, "tagged already"),
    ],
)
def test_what_is_missing_is_named(
    changelog: str, versions: dict[str, str], tags: set[str], fault: str
) -> None:
    found = [*faults(changelog, versions, tags)]
    assert any(part in each for each in found for part in fault.split("|")), found
