"""`python -m payouts api|worker|migrate`"""

from pathlib import Path

from common.service import Role, main
from payouts import bootstrap
from payouts.settings import ApiSettings, WorkerSettings

if __name__ == "__main__":
    roles = {
        "api": Role(ApiSettings, bootstrap.api),
        "worker": Role(WorkerSettings, bootstrap.worker),
    }
    main("payouts", roles, migrations=Path(__file__).parent)
