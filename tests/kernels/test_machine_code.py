"""Machine code of the kernels against docs/internals/gpu-tables.md, and the arithmetic behind it; no GPU is needed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="triton has no wheel for this platform")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("triton interprets its kernels in this process: there is no machine code", allow_module_level=True)

from benchmarks.document import difference, read_section, write_section
from benchmarks.gpu import machine_code, offline, predict
from benchmarks.gpu.offline import CHIPS, Code
from interconv_kernels._accuracy import float32_as
from interconv_kernels._backends.triton import configs
from interconv_kernels._backends.triton.configs import TILES, Tile, candidates_for

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs/internals/gpu-tables.md"


def run(*arguments, **environment):
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)


def code(registers=32, spills="", shared=0, tensor_memory=0, warps=4, **instructions):
    every = {name: 0 for patterns in offline.INSTRUCTIONS.values() for name in patterns}
    return Code(registers, spills, shared, tensor_memory, warps, every | instructions)


# --- machine code -----------------------------------------------------------------------------------------------------


def test_every_kernel_is_lean_and_as_documented(tmp_path):
    checked = run("machine-code", "--check", str(DOCUMENT), TRITON_CACHE_DIR=str(tmp_path))
    assert checked.returncode == 0, checked.stderr


def test_every_kernel_and_every_tile_is_compiled():
    cases = machine_code.cases()
    compiled = {launch.kernel for case in cases for launch in offline.record(CHIPS["sm_90"], case.work)}
    assert compiled == machine_code.all_kernels()
    assert {tile.name for tile in TILES} <= {case.title.split(",")[0] for case in cases}


def test_what_a_chip_is_not_for_is_not_compiled_for_it():
    bulk = [case for case in machine_code.cases() if case.bulk_copies]
    assert bulk
    for case in bulk:
        assert {name for name, chip in CHIPS.items() if case.fits(chip)} == {"sm_90", "sm_100", "sm_110", "sm_120"}


def test_amd_chips_multiply_float32_exactly():
    """Triton has TF32 for gfx942 alone."""
    cases = [case for case in machine_code.cases() if case.products == "tf32"]
    for case in cases:
        assert {CHIPS[name].backend for name in CHIPS if case.fits(CHIPS[name])} == {"cuda"}
    work = machine_code.tile_launch(configs.pick("conv", torch.float32, 64, 64), torch.float32, 64)
    for name in ("gfx90a", "gfx942", "gfx950"):
        with float32_as("tf32"):
            [launch] = offline.record(CHIPS[name], work)
        assert launch.named["PRECISION"] == "ieee"


def test_accepted_spills_are_those_of_the_tables():
    for version, accepted in machine_code.ACCEPTED_SPILLS.items():
        text = read_section(DOCUMENT, f"machine code, triton {version}")
        assert sorted(re.findall(r"\*\*spills (.*?)\*\*", text)) == sorted(accepted.values())


def test_only_accepted_spills_are_accepted(monkeypatch):
    spills = {("sm_110", "from the last sample, float32"): "8 bytes of stack memory"}
    monkeypatch.setattr(machine_code, "ACCEPTED_SPILLS", {machine_code.triton.__version__: spills})
    case = machine_code.KernelCase("from the last sample, float32", list)
    lean = {"load128": 1, "store128": 1}
    two_registers = code(spills="8 bytes of stack memory", **lean)
    assert machine_code.faults(case, CHIPS["sm_110"], two_registers) == []
    assert machine_code.faults(case, CHIPS["sm_100"], two_registers) == ["spills 8 bytes of stack memory"]
    assert machine_code.faults(case, CHIPS["sm_110"], code(spills="16 bytes of stack memory", **lean)) != []
    monkeypatch.setattr(machine_code, "ACCEPTED_SPILLS", {"another version": spills})
    assert machine_code.faults(case, CHIPS["sm_110"], two_registers) == ["spills 8 bytes of stack memory"]


def test_row_blocks_are_compiled_once_for_all_batches(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    [tile] = candidates_for("conv_rows", torch.bfloat16, 16, 16)
    chip, variants = CHIPS["sm_90"], set()
    for size, lengths in (((64, 64), [8, 8]), ((1, 1), [1, 1]), ((37, 17), [1, 2]), ((160, 192), [3])):
        [launch] = offline.record(chip, machine_code.tile_launch(tile, torch.bfloat16, 16, size, lengths))
        offline.compile_for(chip, launch)
        variants.add(len(launch.function.device_caches[chip.name][0]))
    assert len(variants) == 1


def test_a_tile_that_spills_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    tile = Tile("conv", 16, True, 256, 128, 32, 4, 3, "256 sums a thread")
    chip = CHIPS["sm_80"]
    case = machine_code.KernelCase("spilling", machine_code.tile_launch(tile, torch.bfloat16, 128), "16-bit")
    [launch] = offline.record(chip, case.work)
    [fault] = machine_code.faults(case, chip, offline.compile_for(chip, launch))
    assert re.fullmatch(r"spills \d+ bytes of stack memory", fault)


def test_faults_are_named():
    sm_90, work = CHIPS["sm_90"], list
    product = machine_code.KernelCase("", work, "16-bit", bulk_copies=True)
    assert machine_code.faults(product, sm_90, code(wgmma=4, bulk=7)) == []
    assert machine_code.faults(product, sm_90, code(mma=4)) == ["no wgmma instruction", "no bulk copy"]
    assert machine_code.faults(product, sm_90, code(wgmma=4, bulk=7, shared=228 * 1024)) == [
        "233472 bytes of shared memory, expected at most 232448"
    ]
    rounded = machine_code.faults(machine_code.KernelCase("", work, "ieee"), sm_90, code(wgmma=1))
    assert rounded == ["wgmma instructions, which round float32"]
    assert machine_code.faults(machine_code.KernelCase("", work), sm_90, code(load128=1)) == ["no store128"]


def test_parsing_of_resources():
    usage = " Function k:\n  REG:96 STACK:{} SHARED:1024 LOCAL:{} CONSTANT[0]:968 TEXTURE:0\n"
    assert offline.parse_cuobjdump(usage.format(0, 0)) == (96, "")
    assert offline.parse_cuobjdump(usage.format(8, 4)) == (96, "8 bytes of stack memory, 4 bytes of local memory")
    text = ".private_segment_fixed_size: {}\n .sgpr_spill_count: 2\n .vgpr_count:     {}\n .vgpr_spill_count: {}\n"
    assert offline.parse_amdgcn(text.format(0, 98, 0)) == (98, "")
    assert offline.parse_amdgcn(text.format(12, 256, 3)) == (256, "3 vector registers, 12 bytes of scratch memory")


@pytest.mark.parametrize(
    ("chip", "compiled", "programs", "share"),
    [
        ("sm_80", code(128, warps=8), 2, 16 / 64),  # 65536 registers / (128 * 256 threads)
        ("sm_90", code(168, warps=4), 3, 12 / 64),  # 65536 / (168 * 128) = 3.05
        ("sm_90", code(100, warps=4), 4, 16 / 64),  # 104 are given: 65536 / (104 * 128) = 4.9, but 4 to a partition
        ("sm_90", code(32, shared=80 * 1024), 2, 8 / 64),  # 228 KB / (80 KB + 1 KB)
        ("sm_100", code(32, tensor_memory=256), 2, 8 / 64),  # 512 columns
        ("sm_120", code(16, warps=2), 24, 1.0),
        ("gfx942", code(130, warps=4), 3, 12 / 32),  # 512 / 136 = 3 waves on each of 4 SIMDs
        ("gfx942", code(60, shared=24 * 1024, warps=4), 2, 8 / 32),
    ],
)
def test_occupancy_by_hand(chip, compiled, programs, share):
    assert offline.resident_programs(CHIPS[chip], compiled) == programs
    assert offline.occupancy(CHIPS[chip], compiled) == share


# --- predictions ------------------------------------------------------------------------------------------------------


def test_predictions_say_what_they_are_and_stay_below_the_floor():
    printed = run("predict", "--gpu", "h200")
    assert printed.returncode == 0, printed.stderr
    heads = [line for line in printed.stdout.splitlines() if line.startswith(("| layer", "PREDICTED"))]
    assert len(heads) == 8
    assert all("PREDICTED" in head for head in heads)
    shares = [int(share) for share in re.findall(r"(\d+)%", printed.stdout)]
    assert len(shares) > 100
    assert all(0 < share <= 100 for share in shares)


def test_predictions_are_as_documented():
    checked = run("predict", "--check", str(DOCUMENT))
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("gpu", predict.GPUS.values(), ids=list(predict.GPUS))
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_no_layer_beats_its_floor(gpu, direction):
    for shape in predict.SHAPES:
        for lengths in predict.SETS.values():
            assert 0 < predict.predict_layer(gpu, shape, lengths, direction).fraction <= 1


def test_costs_by_hand():
    shape = predict.Shape("", 48, 8, 16)  # bfloat16 maps of 12288 bytes, 128 pixels
    chip = CHIPS["sm_90"]
    costs = {
        launch.kernel: predict.cost(launch)
        for work in (predict.layer(shape, [2, 1], "forward"), predict.set_operations(shape, [2, 1]))
        for launch in offline.record(chip, work)
    }
    concat = costs["concat_kernel"]
    assert concat.bytes == 3 * 12288 * 3 + 3 * 4  # u once, [u | s], and three offsets
    conv = costs["conv_tma_kernel"]  # a tile for each sample: 128 pixels, 64 columns, 64 channels deep
    assert conv.needed_flops == 2 * 3 * 128 * 9 * 48 * 48
    assert conv.flops == 2 * 3 * 128 * 64 * 9 * 64
    assert conv.bytes == 2 * 3 * 12288 + 2 * 9 * 48 * 48 + 2 * 24576  # u, y, the weights and t in float32
    assert conv.l2_bytes == 2 * 9 * 48 * (3 * 128 + 3 * 48) + 3 * 12288


def test_costs_of_row_blocks_by_hand():
    """Two blocks of 20 rows for 64 columns, of which 48 exist: each reads 22 rows three times, and all weights."""
    [tile] = candidates_for("conv_rows", torch.bfloat16, 24, 24)
    [launch] = offline.record(CHIPS["sm_90"], machine_code.tile_launch(tile, torch.bfloat16, 24, (40, 16), [2, 1]))
    rows = predict.cost(launch)
    maps, weights = 3 * 24 * 40 * 16 * 2, 9 * 32 * 32 * 2
    assert launch.arguments["rows"] == 20
    assert rows.needed_flops == 2 * 3 * 40 * 16 * 9 * 24 * 24
    assert rows.flops == 2 * 64 * 44 * 9 * 32 * 32
    assert rows.bytes == 2 * maps + weights + 2 * 24 * 40 * 16 * 4
    assert rows.l2_bytes == 3 * 48 * 44 * 24 * 2 + 2 * weights + maps


def test_tiles_are_predicted_beside_each_other():
    lines = list(predict.tile_lines(predict.GPUS["h100"], predict.Shape("", 32, 160, 192)))
    l2_bytes = {line.split("|")[2].split("-")[0].strip(): float(line.split("|")[6]) for line in lines}
    assert set(l2_bytes) == {"conv_tma", "conv", "conv_rows"}
    assert min(l2_bytes["conv"], l2_bytes["conv_tma"]) > 18  # u nine times
    assert 6 < l2_bytes["conv_rows"] < 9  # u three times, y and the weights
    assert not list(predict.tile_lines(predict.GPUS["h100"], predict.Shape("", 128, 40, 48)))


# --- the document -----------------------------------------------------------------------------------------------------


def test_a_section_is_replaced_and_the_rest_is_left(tmp_path):
    path = tmp_path / "document.md"
    path.write_text("before\n<!-- one -->\nold\n<!-- end of one -->\nafter\n")
    assert "-old" in difference(path, "one", "new\n")
    write_section(path, "one", "new\n")
    assert path.read_text() == "before\n<!-- one -->\nnew\n<!-- end of one -->\nafter\n"
    assert read_section(path, "one") == "new\n"
    assert difference(path, "one", "new\n") == ""
    assert difference(path, "two", "new\n") != ""
    with pytest.raises(ValueError, match="no section"):
        write_section(path, "two", "new\n")
