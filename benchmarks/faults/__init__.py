"""Faults of stores and processes under load, with a ledger of what the service acknowledged."""
