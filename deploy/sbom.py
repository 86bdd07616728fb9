"""`make sbom`: what each image consists of, as CycloneDX, and under which licences.

Each service is installed alone, by the lock, as its image does; so an operator can ask which image
has a package that an advisory names. The Debian packages of the base image are not included.
https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
SERVICES: Final = tuple(sorted(each.name for each in (ROOT / "services").iterdir()))
_UV = Path(sys.executable).parent / "uv"
# What may be linked into what we ship without giving away more than a notice.
ALLOWED: Final = re.compile(
    r"MIT|MIT-0|BSD(-[23]-Clause)?|Apache-2\.0|ISC|PSF-2\.0|MPL-2\.0|Unlicense|0BSD|Python-2\.0"
    r"|LGPL-3\.0-only|LGPL-3\.0-or-later|Zlib|BSL-1\.0"
    r"|License :: OSI Approved :: (MIT|BSD|Apache Software) License"
)
# Packages whose metadata names none: https://github.com/protocolbuffers/protobuf/blob/main/LICENSE
_UNSAID: Final = {"protobuf": "BSD-3-Clause"}


class SbomError(Exception):
    """A step failed. The message says which, and what it printed."""


def install(service: str, folder: Path) -> Path:
    """Install the service alone, with the lock's versions; return its interpreter."""
    environment = folder / "venv"
    shutil.rmtree(environment, ignore_errors=True)
    python = environment / "bin" / "python"
    _run([_UV, "venv", "--quiet", environment])
    packages = ["./libs/common", f"./services/{service}"]
    options = ["--quiet", "--no-sources", "-c", "requirements.lock"]
    _run([_UV, "pip", "install", "--python", python, *options, *packages])
    return python


def tool(folder: Path) -> Path:
    """Return the program that describes an environment, from a lock of its own."""
    environment = folder / "tool"
    program = environment / "bin" / "cyclonedx-py"
    if not program.exists():
        _run([_UV, "venv", "--quiet", environment])
        options = ["--quiet", "--require-hashes", "-r", "deploy/sbom.lock"]
        _run([_UV, "pip", "install", "--python", environment / "bin" / "python", *options])
    return program


def describe(program: Path, python: Path) -> Mapping[str, Any]:
    """Return the environment's bill of materials: the same for the same packages."""
    options = ["--output-reproducible", "--spec-version", "1.6", "--output-format", "JSON"]
    found: Mapping[str, Any] = json.loads(_run([program, "environment", *options, python]))
    return found


def licences(bill: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
    """Return each package's licences, by their SPDX ids or names."""
    return {
        f"{each['name']} {each['version']}": sorted(_licences(each))
        for each in bill.get("components", ())
        if not each["name"].startswith("paybus-")
    }


def _licences(component: Mapping[str, Any]) -> set[str]:
    found = set()
    for each in component.get("licenses", ()):
        if "expression" in each:
            found |= set(re.split(r"\s+(?:AND|OR)\s+|[()]", each["expression"])) - {""}
        else:
            found.add(each["license"].get("id") or each["license"]["name"])
    return found or {_UNSAID[name] for name in (component["name"],) if name in _UNSAID}


def refused(by_package: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """Return the packages of which no licence is one that we allow, each with what it has."""
    return [
        f"{package}: {', '.join(found) or 'no licence'}"
        for package, found in by_package.items()
        if not any(ALLOWED.fullmatch(each) for each in found)
    ]


def _run(command: Sequence[str | Path]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SbomError(f"{' '.join(map(str, command[:3]))} failed:\n{done.stderr}")
    return done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.sbom")
    parser.add_argument("folder", type=Path, help="where <service>.cdx.json is written")
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    users: dict[str, set[str]] = defaultdict(set)
    wrong: set[str] = set()
    program = tool(folder)
    for service in SERVICES:
        bill = describe(program, install(service, folder))
        (folder / f"{service}.cdx.json").write_text(json.dumps(bill, indent=1, sort_keys=True))
        by_package = licences(bill)
        wrong |= set(refused(by_package))
        for package, found in by_package.items():
            for licence in found:
                users[licence].add(package)
        print(f"{folder / service}.cdx.json: {len(by_package)} packages")
    shutil.rmtree(folder / "venv", ignore_errors=True)
    for licence, packages in sorted(users.items(), key=lambda item: -len(item[1])):
        print(f"{licence:60.60} {len(packages):4}")
    for each in sorted(wrong):
        print(f"not allowed: {each}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SbomError as error:
        sys.exit(f"make sbom: {error}")
