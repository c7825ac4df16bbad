import pytest

pytest.register_assert_rewrite("halo_cases")


@pytest.fixture(scope="session")
def library():
    """The kernels on the emulator."""
    import emulated

    return emulated.build()


@pytest.fixture(scope="session")
def warpgroup_library():
    """The kernels for warpgroups on the emulator."""
    import emulated

    return emulated.build(flags=("-DWARPGROUPS",))
