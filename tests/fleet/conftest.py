"""The fleet takes minutes, and Ray: `deploy/check-fleet` installs it and runs these tests."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("ray") else ["test_*.py"]
