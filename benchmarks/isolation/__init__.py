"""Tenants who try to reach each other's memories."""
