"""`python -m devstack run|demo...|webhook|token`; called by the Makefile."""

from __future__ import annotations

import argparse
import sys

import httpx
import psycopg

from devstack import run, webhook
from devstack.addresses import DevstackError
from devstack.demo import banks, dead_letters, orders
from devstack.demo import main as systems
from devstack.demo import payouts as payday
from devstack.processes.stack import PAYBUS
from devstack.tokens import DevKeys


def main() -> None:
    options = _parser().parse_args()
    try:
        match options.command:
            case "run":
                status = run.main()
            case "demo":
                status = systems.main(options.subscriptions, options.checkouts)
            case "demo-payouts":
                status = payday.main(options.payouts)
            case "demo-banks":
                status = banks.main(options.items, options.transactions)
            case "demo-dead-letters":
                status = dead_letters.main(options.letters)
            case "demo-orders":
                status = orders.main(options.orders)
            case "webhook":
                status = webhook.main(options.gateway)
            case _:
                _open_what_containers_read()
                print(DevKeys(PAYBUS / "keys").token(options.role, tenant=options.tenant))
                status = 0
    except DevstackError as error:
        print(f"devstack: {error}", file=sys.stderr)
        status = 1
    except psycopg.Error as error:
        print(f"devstack: POSTGRES_URL can't be used: {error}", file=sys.stderr)
        status = 1
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        print(f"devstack: RABBITMQ_MANAGEMENT_URL can't be used: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)


def _open_what_containers_read() -> None:
    """Let the users of containers read what docker-compose.yml mounts, whatever the umask was when
    this checkout was made: nothing in it is secret."""
    deploy = PAYBUS.parent / "deploy"
    for folder in (deploy / "compose", deploy / "observability"):
        for each in (deploy, folder, *folder.rglob("*")):
            mode = each.stat().st_mode
            each.chmod(mode | (0o755 if each.is_dir() else 0o444))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m devstack")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="start everything; Ctrl-C stops it")
    demo_command = commands.add_parser(
        "demo", help="drive everything with the stand-ins of Stripe and mobile money"
    )
    demo_command.add_argument("--subscriptions", type=_positive, default=200, help="by Stripe")
    demo_command.add_argument("--checkouts", type=_positive, default=200, help="by mobile money")
    payouts_command = commands.add_parser("demo-payouts", help="a payday with bad providers")
    payouts_command.add_argument("--payouts", type=_positive, default=500)
    banks_command = commands.add_parser("demo-banks", help="banks whose data keeps changing")
    banks_command.add_argument("--items", type=_positive, default=50)
    banks_command.add_argument("--transactions", type=_positive, default=200, help="of each")
    letters_command = commands.add_parser("demo-dead-letters", help="everything is sent again")
    letters_command.add_argument("--letters", type=_positive, default=100_000)
    orders_command = commands.add_parser("demo-orders", help="a marketplace's orders")
    orders_command.add_argument("--orders", type=_positive, default=10_000)
    webhook_command = commands.add_parser("webhook", help="send a signed webhook")
    webhook_command.add_argument("--gateway", help="its URL; default: that of `make run`")
    token_command = commands.add_parser("token", help="print a token for the APIs")
    token_command.add_argument(
        "--role", choices=["viewer", "operator", "approver", "admin"], required=True
    )
    token_command.add_argument("--tenant", default="default")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more")
    return int(text)


if __name__ == "__main__":
    main()
