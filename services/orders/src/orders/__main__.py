"""Entry point: `python -m orders api|worker|migrate|generate-key|rotate-keys`."""

from pathlib import Path

from common.db.key_rotation import SealedColumn, Sealing
from common.runtime.service import Role, main
from orders import bootstrap
from orders.models import Order
from orders.settings import ApiSettings, WorkerSettings

if __name__ == "__main__":
    roles = {
        "api": Role(ApiSettings, bootstrap.api),
        "worker": Role(WorkerSettings, bootstrap.worker),
    }
    sealing = Sealing([SealedColumn(Order, "contact")])
    main("orders", roles, migrations=Path(__file__).parent, sealing=sealing)
