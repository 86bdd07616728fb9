"""What every service's HTTP API shares."""
