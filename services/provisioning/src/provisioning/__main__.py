"""`python -m provisioning api|worker|migrate`"""

from pathlib import Path

from common.runtime.service import Role, main
from provisioning import bootstrap
from provisioning.settings import ApiSettings, WorkerSettings

if __name__ == "__main__":
    roles = {
        "api": Role(ApiSettings, bootstrap.api),
        "worker": Role(WorkerSettings, bootstrap.worker),
    }
    main("provisioning", roles, migrations=Path(__file__).parent)
