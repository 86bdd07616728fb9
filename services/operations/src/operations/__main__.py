"""`python -m operations api|worker|migrate|new-key|rotate-keys`"""

from pathlib import Path

from common.key_rotation import SealedColumn, Sealing
from common.service import Role, main
from operations.bootstrap import api, worker
from operations.models import Item, Letter
from operations.settings import ApiSettings, WorkerSettings

if __name__ == "__main__":
    roles = {
        "api": Role(ApiSettings, api),
        "worker": Role(WorkerSettings, worker),
    }
    sealing = Sealing([SealedColumn(Letter, "sealed_body"), SealedColumn(Item, "sealed_body")])
    main("operations", roles, migrations=Path(__file__).parent, sealing=sealing)
