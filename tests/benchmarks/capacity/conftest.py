"""The service's tiny checkpoint."""

from tests.service.conftest import tiny_folder as tiny_folder
