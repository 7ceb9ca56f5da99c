"""The service under load, and what its device does with time and memory.

`command` runs the measurements, each of which is a module. `load` sends requests, `targets` receive
them, `process` runs the service, `documents` draws what is written.
"""
