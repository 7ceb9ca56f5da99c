"""Measurements behind the capacity plan, and what it predicts held against the service."""
