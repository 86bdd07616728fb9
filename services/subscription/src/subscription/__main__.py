"""`python -m subscription api|worker|migrate`"""

from pathlib import Path

from common.service import Role, main
from subscription import bootstrap
from subscription.settings import ApiSettings, WorkerSettings

if __name__ == "__main__":
    roles = {
        "api": Role(ApiSettings, bootstrap.api),
        "worker": Role(WorkerSettings, bootstrap.worker),
    }
    main("subscription", roles, migrations=Path(__file__).parent)
