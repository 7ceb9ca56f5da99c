"""The HTTP service: routes, engine, stores, client and command line."""
