"""`python -m webhook_gateway api`"""

from common.service import Role, main
from webhook_gateway import bootstrap
from webhook_gateway.settings import Settings

if __name__ == "__main__":
    main("webhook-gateway", {"api": Role(Settings, bootstrap.api)})
