import pytest


@pytest.fixture(scope="session")
def library():
    """The kernels on the emulator."""
    import emulated

    return emulated.build()
