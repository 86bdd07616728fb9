"""`python -m operations api|worker|migrate`"""

from pathlib import Path

from common.service import Role, main
from operations.bootstrap import api, worker
from operations.settings import ApiSettings, WorkerSettings

if __name__ == "__main__":
    roles = {
        "api": Role(ApiSettings, api),
        "worker": Role(WorkerSettings, worker),
    }
    main("operations", roles, migrations=Path(__file__).parent)
