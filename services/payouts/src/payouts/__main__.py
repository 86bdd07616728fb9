"""`python -m payouts api|worker|migrate|generate-key|rotate-keys`"""

from pathlib import Path

from common.db.key_rotation import SealedColumn, Sealing
from common.runtime.service import Role, main
from payouts import bootstrap
from payouts.models import Attempt, Recipient
from payouts.settings import ApiSettings, WorkerSettings

if __name__ == "__main__":
    roles = {
        "api": Role(ApiSettings, bootstrap.api),
        "worker": Role(WorkerSettings, bootstrap.worker),
    }
    sealing = Sealing([SealedColumn(Recipient, "details"), SealedColumn(Attempt, "details")])
    main("payouts", roles, migrations=Path(__file__).parent, sealing=sealing)
