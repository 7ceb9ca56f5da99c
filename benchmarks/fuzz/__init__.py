"""Requests that the OpenAPI document allows and forbids, and answers held against it."""
