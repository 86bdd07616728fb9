"""`make chaos`: the real processes under load while their environment fails."""
