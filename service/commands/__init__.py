"""The commands of `gradmem`, a module for each group.

Modules import what the service needs, which takes seconds and may not be installed, in the commands
that use it.
"""
