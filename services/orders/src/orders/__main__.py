"""`python -m orders api|worker|migrate`"""

from pathlib import Path

from common.service import Role, main
from orders import bootstrap
from orders.settings import ApiSettings, WorkerSettings

if __name__ == "__main__":
    roles = {
        "api": Role(ApiSettings, bootstrap.api),
        "worker": Role(WorkerSettings, bootstrap.worker),
    }
    main("orders", roles, migrations=Path(__file__).parent)
