import pytest
from helpers.runs import shrink_networks


@pytest.fixture(scope="session", autouse=True)
def _small_networks():
    shrink_networks()
