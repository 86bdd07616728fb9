"""Secrets and personal data of every kind that Paybus meets: none may show anywhere.

Each is made up, and looks as its issuer says that it does.
"""

from __future__ import annotations

CANARIES = {
    "card, plain": "4242424242424242",
    "card, in groups": "5555 5555 5555 4444",
    "card, with dashes": "4000-0566-5566-5556",
    "card, of fifteen digits": "378282246310005",
    "card, with hard spaces": "4000\u00a00566\u00a05566\u00a05556",
    "card, with two spaces": "4000  0566  5566  5556",
    "card, with underscores": "4000_0566_5566_5556",
    "IBAN": "DE89370400440532013000",
    "IBAN, in groups": "GB82 WEST 1234 5698 7654 32",
    "IBAN, in small letters": "de89370400440532013000",
    "JSON Web Token": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJjYW5hcnkifQ.c2lnbmF0dXJl",
    "AWS access key": "AKIAIOSFODNN7CANARYS",
    "AWS secret key": "aws_secret_access_key=wJalrXUtnFEMICANARYbPxRfiCYEXAMPLEKEY",
    "GitHub token": "ghp_Canary1234567890Canary1234567890Cana",
    "GitHub token, fine grained": "github_pat_11CANARY0abcdefghijklmnopqrstuv",
    "Stripe key": "sk_live_51CanaryCanaryCanary",
    "Stripe restricted key": "rk_live_51CanaryCanaryCanary",
    "Stripe webhook secret": "whsec_CanaryCanaryCanaryCanary",
    "Plaid access token": "access-production-0a1b2c3d-4e5f-6789-abcd-ef0123456789",
    "Plaid public token": "public-sandbox-0a1b2c3d-4e5f-6789-abcd-ef0123456789",
    "Flutterwave key": "FLWSECK-0a1b2c3d4e5f67890a1b2c3d4e5f6789-X",
    "Flutterwave test key": "FLWSECK_TEST-0a1b2c3d4e5f67890a1b2c3d4e5f6789-X",
    "Square token": "EAAAEPCanaryCanaryCanaryCanaryCanaryCanaryCanaryCanaryCanary",
    "Square application secret": "sq0csp-CanaryCanaryCanaryCanaryCanaryCanary",
    "Slack token": "xoxb-1234567890-CanaryCanary",
    "e-mail address": "canary.person@example.com",
    "e-mail address, in a query": "canary.person%40example.org",
    "e-mail address, encoded twice": "canary.person%2540example.org",
    "phone number": "+237677123456",
    "phone number, in groups": "+33 6 12 34 56 78",
    "bearer token": "Bearer canarycanarycanary",
    "password": "password=canary-password",
    "password, in JSON": '"password": "canary-password"',
    "URL with a password": "postgresql://canary:canary-password@db.example.com/paybus",
}
# Of those of which not all is secret: what must not be seen.
SECRET_PART = {
    "password": "canary-password",
    "password, in JSON": "canary-password",
    "bearer token": "canarycanarycanary",
    "AWS secret key": "wJalrXUtnFEMICANARYbPxRfiCYEXAMPLEKEY",
    "URL with a password": "canary-password",
}
