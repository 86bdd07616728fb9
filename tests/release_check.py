"""Check whether the tree can be tagged: `make release-check`."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_RELEASE = re.compile(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d{2}-\d{2})$", re.M)
_SECTIONS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def faults(changelog: str, versions: dict[str, str], tags: set[str]) -> Iterator[str]:
    """Yield the reasons not to tag. `versions` is by file."""
    if len({*versions.values()}) != 1:
        yield f"the packages' versions differ: {versions}"
    version = next(iter(versions.values()))
    releases = _RELEASE.findall(changelog)
    if not releases or releases[0][0] != version:
        yield f"CHANGELOG.md's newest release is not {version}, the packages' version"
    for number, day in releases:
        try:
            late = date.fromisoformat(day) > datetime.now(UTC).date()
        except ValueError:
            late = True
        if late:
            yield f"CHANGELOG.md: {number} is dated {day}"
        if f"[{number}]: " not in changelog:
            yield f"CHANGELOG.md: {number} has no link"
    unreleased = changelog.partition("## [Unreleased]")[2].partition("\n## [")[0].strip()
    if "## [Unreleased]" not in changelog:
        yield "CHANGELOG.md has no section [Unreleased]"
    elif unreleased:
        yield "CHANGELOG.md: [Unreleased] is not empty: give it the version and its date"
    for section in re.findall(r"^### (.+)$", changelog, re.M):
        if section not in _SECTIONS:
            yield f"CHANGELOG.md: {section!r} is no section of Keep a Changelog"
    if f"v{version}" in tags:
        yield f"v{version} is tagged already"


def main() -> None:
    manifests = [ROOT / "pyproject.toml", *ROOT.glob("*/*/pyproject.toml")]
    manifests.append(ROOT / "sandbox/pyproject.toml")
    versions = {
        str(each.relative_to(ROOT)): tomllib.loads(each.read_text())["project"]["version"]
        for each in manifests
    }
    found = [*faults((ROOT / "CHANGELOG.md").read_text(), versions, {*_git("tag").split()})]
    if changed := _git("status", "--porcelain"):
        found.append(f"the tree has changes that are not committed:\n{changed}")
    for each in found:
        print(each, file=sys.stderr)
    if found:
        sys.exit(1)
    version = versions["pyproject.toml"]
    print(f"ready: git tag -a v{version} -m 'Paybus {version}'")


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


if __name__ == "__main__":
    main()
