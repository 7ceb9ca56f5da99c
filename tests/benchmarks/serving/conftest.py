"""The service's tiny checkpoint and its running service."""

from tests.service.conftest import base_url as base_url
from tests.service.conftest import settings as settings
from tests.service.conftest import tiny as tiny
from tests.service.conftest import tiny_folder as tiny_folder
