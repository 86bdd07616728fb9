"""`python -m webhook_gateway api|worker|migrate`"""

from pathlib import Path

from common.runtime.service import Role, main
from webhook_gateway import bootstrap
from webhook_gateway.settings import ApiSettings, WorkerSettings

if __name__ == "__main__":
    roles = {
        "api": Role(ApiSettings, bootstrap.api),
        "worker": Role(WorkerSettings, bootstrap.worker),
    }
    main("webhook-gateway", roles, migrations=Path(__file__).parent)
