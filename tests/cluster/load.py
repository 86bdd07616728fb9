"""Runs in a pod of the ingress's namespace, with the arguments GATEWAY SECRET RATE EVENT, until its
input ends.

Sends Stripe's webhooks to the gateway, each of them again until it is accepted, as Stripe does.
Prints `{"accepted": [numbers], "refused": {reason: times}}`. The image has this project's stand-ins
and no development tools, so this is the standard library alone.
"""

import hashlib
import hmac
import http.client
import json
import sys
import threading
import time
import uuid
from collections import Counter

gateway, secret, rate, event = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4]
stop = threading.Event()
accepted: list[str] = []
refused: Counter[str] = Counter()


def post(body: bytes) -> str:
    stamp = int(time.time())
    digest = hmac.new(secret.encode(), b"%d.%s" % (stamp, body), hashlib.sha256).hexdigest()
    connection = http.client.HTTPConnection(gateway, 8000, timeout=15)
    try:
        headers = {"Stripe-Signature": f"t={stamp},v1={digest}"}
        connection.request("POST", "/webhooks/stripe", body, headers)
        return str(connection.getresponse().status)
    except OSError as error:
        return type(error).__name__
    finally:
        connection.close()


def send() -> None:
    number = uuid.uuid4().hex[:12]
    body = event.replace("NUMBER", number).encode()
    while (result := post(body)) != "200":
        refused[result] += 1
        time.sleep(0.5)
    accepted.append(number)


def stop_at_end_of_input() -> None:
    sys.stdin.read()
    stop.set()


threading.Thread(target=stop_at_end_of_input, daemon=True).start()
senders = []
while not stop.wait(1 / rate):
    senders.append(threading.Thread(target=send))
    senders[-1].start()
for each in senders:
    each.join()
print(json.dumps({"accepted": accepted, "refused": refused}))
