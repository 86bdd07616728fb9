"""The published language: what services say to each other, and where it goes."""
