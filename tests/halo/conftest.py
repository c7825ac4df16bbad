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


@pytest.fixture(scope="session")
def gradients():
    """The kernels of the weight gradient on the emulator."""
    import emulated_weight_gradient

    return emulated_weight_gradient.build_weight_gradient()


@pytest.fixture(scope="session")
def configs(gradients):
    """The rows of the table of the weight gradient."""
    import emulated_weight_gradient

    return emulated_weight_gradient.table(gradients)
