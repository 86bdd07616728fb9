"""`python -m bank_sync api|worker|migrate`"""

from pathlib import Path

from bank_sync.bootstrap import api, worker
from bank_sync.settings import ApiSettings, WorkerSettings
from common.service import Role, main

if __name__ == "__main__":
    roles = {
        "api": Role(ApiSettings, api),
        "worker": Role(WorkerSettings, worker),
    }
    main("bank-sync", roles, migrations=Path(__file__).parent)
