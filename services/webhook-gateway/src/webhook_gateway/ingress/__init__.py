"""HTTP ingress of webhooks."""
