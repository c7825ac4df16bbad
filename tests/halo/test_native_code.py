"""What `python -m benchmarks native-code` reads from machine code, and what it objects to."""

import pytest
from halo_cases import CONFIGS, WARPGROUP_CONFIGS  # first: it may skip

pytest.importorskip("triton", reason="triton has no wheel for this platform")

from benchmarks.gpu.native_code import Kernel, _key, count, faults, parse_ptxas, table
from benchmarks.gpu.offline import CHIPS

NAME = "_ZN9interconv4halo17halo_layer_kernelINS0_7Float16ELi3EEEvNS0_9HaloLayerIT_XixtlA15_KNS0_3RowE"
PTXAS = """'{name}' for 'sm_80'
    {spilled} bytes stack frame, {spilled} bytes spill stores, {spilled} bytes spill loads
ptxas info    : Used 216 registers, used 1 barriers, 464 bytes cmem[0]
"""


def test_instructions_are_counted_between_the_first_and_the_last_product():
    names = ["MOV R1, R2", "HMMA.16816.F32.BF16 R1, R2", "@P0 IMAD.MOV.U32 R3, RZ", "MOV R4, R5", "IMAD R3, R4"]
    lines = [
        f"        /*{16 * i:04x}*/                   {name} ;" for i, name in enumerate([*names, names[1], names[0]])
    ]
    assert count("\n".join(lines), "HMMA") == {"mma": 2, "moves": 2, "setmaxnreg": 0}


def test_resources_and_faults():
    config = CONFIGS[3]
    assert _key(PTXAS.format(name=NAME, spilled=0)) == ("Float16", 3)
    for spilled, mma, moves, expected in (
        (0, config.products_in_loop, 3, []),
        (8, config.products_in_loop, 3, ["spills: 8 bytes stack frame, 8 bytes spill stores, 8 bytes spill loads"]),
        (0, 2 * config.products_in_loop, 3, [f"{2 * config.products_in_loop} products, expected 288"]),
        (0, config.products_in_loop, 1152, ["1152 moves between registers in the inner loop"]),
    ):
        code = parse_ptxas(
            PTXAS.format(name=NAME, spilled=spilled), config, {"mma": mma, "moves": moves, "setmaxnreg": 0}
        )
        assert code.registers == 216
        assert faults(Kernel(CHIPS["sm_80"], config, "Float16", code)) == expected
    assert "| 159 | 216, 1 x 4 warps (6%) |" in table([Kernel(CHIPS["sm_80"], config, "Float16", code)])


def test_registers_that_are_moved_between_warps_must_be_there():
    [config] = [config for config in WARPGROUP_CONFIGS if (config.channels, config.columns) == (16, 128)]
    products = 18  # 9 taps of two tiles of 64 pixels
    for registers, expected in (
        (128, []),
        (96, ["moves registers between warps, and starts with 96 a thread: some would wait"]),
    ):
        text = PTXAS.format(name=NAME, spilled=0).replace("216", str(registers))
        code = parse_ptxas(text, config, {"mma": products, "moves": 0, "setmaxnreg": 2})
        assert faults(Kernel(CHIPS["sm_90"], config, "Float16", code)) == expected
