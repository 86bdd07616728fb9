"""The files that `make k8s-secrets` takes, as small as the services accept them."""

from __future__ import annotations

from pathlib import Path

from devstack.tokens import DevKeys

ENDPOINT = """
[[endpoint]]
provider = "stripe"
tenant = "t"
secrets = ["whsec_of_this_test"]
"""


def write(folder: Path) -> Path:
    """Write the two files that no installation can do without, and return the folder."""
    (folder / "endpoints.toml").write_text(ENDPOINT)
    (folder / "jwks.json").write_text(DevKeys(folder / "keys").jwks.read_text())
    return folder
