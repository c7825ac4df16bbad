"""Tests with other libraries: `make test-integrations`, in an environment of its own."""

import pytest


def pytest_itemcollected(item):
    item.add_marker(pytest.mark.integration)
