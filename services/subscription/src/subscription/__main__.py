"""Entry point: `python -m subscription api|worker|migrate|generate-key|rotate-keys`."""

from pathlib import Path

from common.db.key_rotation import SealedColumn, Sealing
from common.runtime.service import Role, main
from subscription import bootstrap
from subscription.models import Checkout
from subscription.settings import ApiSettings, WorkerSettings

if __name__ == "__main__":
    roles = {
        "api": Role(ApiSettings, bootstrap.api),
        "worker": Role(WorkerSettings, bootstrap.worker),
    }
    sealing = Sealing([SealedColumn(Checkout, "payer")])
    main("subscription", roles, migrations=Path(__file__).parent, sealing=sealing)
