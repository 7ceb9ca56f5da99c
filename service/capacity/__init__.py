"""The capacity plan: devices, store and network for a load, from arithmetic and measurements."""
