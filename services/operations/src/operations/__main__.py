"""Run a role or a command: `python -m operations api|worker|migrate|generate-key|rotate-keys`."""

from pathlib import Path

from common.db.key_rotation import SealedColumn, Sealing
from common.runtime.service import Role, main
from operations.bootstrap import api, worker
from operations.models import DeadLetter, ReplayItem
from operations.settings import ApiSettings, WorkerSettings

if __name__ == "__main__":
    roles = {
        "api": Role(ApiSettings, api),
        "worker": Role(WorkerSettings, worker),
    }
    sealing = Sealing(
        [SealedColumn(DeadLetter, "sealed_body"), SealedColumn(ReplayItem, "sealed_body")]
    )
    main("operations", roles, migrations=Path(__file__).parent, sealing=sealing)
