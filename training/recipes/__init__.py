"""Training runs as TOML files, and what reads them."""
