"""`python -m bank_sync api|worker|migrate|generate-key|rotate-keys`"""

from pathlib import Path

from bank_sync.bootstrap import api, worker
from bank_sync.models import Item
from bank_sync.row_security import TenantSessions
from bank_sync.settings import ApiSettings, WorkerSettings
from common.db.key_rotation import SealedColumn, Sealing
from common.runtime.service import Role, main

if __name__ == "__main__":
    roles = {
        "api": Role(ApiSettings, api),
        "worker": Role(WorkerSettings, worker),
    }
    sealing = Sealing(
        [SealedColumn(Item, "access_token")],
        begin=lambda sessions: TenantSessions(sessions).begin(None),
    )
    main("bank-sync", roles, migrations=Path(__file__).parent, sealing=sealing)
