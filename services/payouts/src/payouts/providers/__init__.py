"""Payout providers: clients, accounts file, recipients' details."""
