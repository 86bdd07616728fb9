"""Stand-ins for the payout APIs of Stripe, Square, Dwolla and Fapshi."""
