"""The linter over PTX and machine code: each of its rules finds a mistake that is made in a kernel without one."""

import pytest

pytest.importorskip("triton", reason="the tools of NVIDIA come with triton, which has no wheel for this platform")

from benchmarks.gpu import native_lint, ptx
from benchmarks.gpu.native_lint import check_file, ptx_faults, sass_faults

MULTIPLY = "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1, %f2, %f3, %f4}, %rd2, %rd2, 1, 1, 1, 0, 0;"
# A ring of two stages: copies, their wait, a product, a result through shared memory.
GOOD = f"""
.version 8.0
.target sm_90a
.address_size 64
.visible .entry kernel(.param .u64 p, .param .u32 n)
.maxntid 128, 1, 1
{{
  .reg .pred %p<3>;
  .reg .b32 %r<9>;
  .reg .f32 %f<9>;
  .reg .b64 %rd<9>;
  .shared .align 128 .b8 tile[4096];
  ld.param.u64 %rd1, [p];
  ld.param.u32 %r1, [n];
  mov.u32 %r2, tile;
  mov.u64 %rd2, 0;
  mov.f32 %f1, 0f00000000; mov.f32 %f2, %f1; mov.f32 %f3, %f1; mov.f32 %f4, %f1;
  cp.async.cg.shared.global [%r2], [%rd1], 16;
  cp.async.commit_group; // before the loop
$loop:
  cp.async.wait_group 0;
  fence.proxy.async.shared::cta;
  bar.sync 0;
  cp.async.cg.shared.global [%r2+2048], [%rd1], 16;
  cp.async.commit_group;
  wgmma.fence.sync.aligned;
  {MULTIPLY}
  {MULTIPLY}
  wgmma.commit_group.sync.aligned;
  wgmma.wait_group.sync.aligned 0;
  st.shared.f32 [%r2+1024], %f1;
  bar.sync 1, 128;
  ld.shared.f32 %f5, [%r2+1024];
  st.global.f32 [%rd1], %f5;
  add.s32 %r1, %r1, -1;
  setp.ne.s32 %p1, %r1, 0;
  @%p1 bra $loop;
  cp.async.wait_group 0; // after the loop
  ret;
}}
"""


def test_a_kernel_without_mistakes():
    assert ptx_faults(GOOD) == []


def faults_of(old, new):
    assert GOOD.count(old) == 1, old
    return "\n".join(ptx_faults(GOOD.replace(old, new)))


MISTAKES = {
    "no fence before the first wgmma": ("wgmma.fence.sync.aligned;", "", "wgmma without a wgmma.fence"),
    "not committed": (
        "wgmma.commit_group.sync.aligned;",
        "",
        "st.shared.f32 touches %f1 of a wgmma that is not committed",
    ),
    "not waited for": (
        "wgmma.wait_group.sync.aligned 0;",
        "",
        "st.shared.f32 touches %f1 of a wgmma that is not waited for",
    ),
    "a group too few": ("wait_group.sync.aligned 0;", "wait_group.sync.aligned 1;", "not waited for"),
    "read too early": (
        "wgmma.wait_group.sync.aligned 0;\n  st.shared.f32 [%r2+1024], %f1;",
        "st.shared.f32 [%r2+1024], %f1;\n  wgmma.wait_group.sync.aligned 0;",
        "touches %f1",
    ),
    "written between fence and wgmma": (
        "wgmma.fence.sync.aligned;",
        "wgmma.fence.sync.aligned; mov.f32 %f3, %f5;",
        "wgmma uses %f3, which was written after the last wgmma.fence",
    ),
    "written while it runs": (
        "wgmma.commit_group.sync.aligned;",
        "wgmma.commit_group.sync.aligned; mov.f32 %f4, %f5;",
        "mov.f32 touches %f4 of a wgmma that is not waited for",
    ),
    "waited for on one path only": (
        "wgmma.wait_group.sync.aligned 0;",
        "@%p1 bra $skip; wgmma.wait_group.sync.aligned 0; $skip:",
        "not waited for",
    ),
    "running at the end": (
        "  ret;",
        f"  wgmma.fence.sync.aligned; {MULTIPLY} wgmma.commit_group.sync.aligned; ret;",
        "the kernel can end before a wgmma is waited for",
    ),
    "copies at the end": ("cp.async.wait_group 0; // after the loop", "", "can end with copies (cp.async) in flight"),
    "copies that nothing commits": (
        "cp.async.commit_group;\n  wgmma.fence",
        "wgmma.fence",
        "can end with copies (cp.async) that are not committed",
    ),
    "copies that nothing waits for": (
        "$loop:\n  cp.async.wait_group 0;",
        "$loop:",
        "no copy was ever waited for",
    ),
    "no barrier after the wait": ("bar.sync 0;", "", "after a wait for copies, without a barrier"),
    "no fence of the async proxy": ("fence.proxy.async.shared::cta;", "", "was written without a fence.proxy.async"),
    "the fence after the barrier": (
        "fence.proxy.async.shared::cta;\n  bar.sync 0;",
        "bar.sync 0;\n  fence.proxy.async.shared::cta;",
        "no barrier follows the fence.proxy.async",
    ),
    "published without a fence": (
        "wgmma.fence.sync.aligned;",
        "st.shared.f32 [%r2], %f5; bar.sync 0; wgmma.fence.sync.aligned;",
        "was written without a fence.proxy.async",
    ),
    "another number of threads": ("bar.sync 1, 128;", "bar.sync 1, 128; bar.sync 1, 64;", "with 128 and 64 threads"),
    "more threads than there are": ("bar.sync 1, 128;", "bar.sync 1, 256;", "waits for 256 threads"),
    "not whole warps": ("bar.sync 1, 128;", "bar.sync 1, 100;", "waits for 100 threads"),
    "an arrive alone": ("bar.sync 1, 128;", "bar.arrive 1, 128;", "barrier 1: an arrive without a sync"),
    "no such barrier": ("bar.sync 1, 128;", "bar.sync 16, 128;", "barrier 16: expected 0 to 15"),
}


@pytest.mark.parametrize(("old", "new", "expected"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_found(old, new, expected):
    assert expected in faults_of(old, new)


def test_a_line_is_named():
    fault = faults_of("wgmma.fence.sync.aligned;", "")
    line = GOOD.splitlines().index(f"  {MULTIPLY}") + 1
    assert fault.startswith(f"kernel, line {line}: ")


# --- mbarriers --------------------------------------------------------------------------------------------------------

MBARRIER = """
.version 8.0
.target sm_90a
.address_size 64
.visible .entry ring(.param .u64 p)
{
  .reg .pred %p<3>;
  .reg .b32 %r<9>;
  .reg .b64 %rd<9>;
  .shared .align 8 .b8 full[8];
  mov.u32 %r1, full;
  mbarrier.init.shared::cta.b64 [%r1], 128;
  fence.mbarrier_init.release.cluster;
  bar.sync 0;
  mbarrier.arrive.shared::cta.b64 _, [%r1];
$wait:
  mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r1], 0;
  @!%p1 bra $wait;
  ret;
}
"""
MBARRIER_MISTAKES = {
    "never initialised": ("mbarrier.init.shared::cta.b64 [%r1], 128;", "", "used and never initialised"),
    "not fenced": ("fence.mbarrier_init.release.cluster;\n  bar.sync 0;", "", "after mbarrier.init without a fence"),
    "not published": ("  bar.sync 0;", "", "after mbarrier.init without a barrier"),
    "a wait that is tried once": (
        "  @!%p1 bra $wait;",
        "",
        "mbarrier.try_wait.parity.shared::cta.b64 decides no branch",
    ),
}


def test_an_mbarrier_without_mistakes():
    assert ptx_faults(MBARRIER) == []


@pytest.mark.parametrize(("old", "new", "expected"), MBARRIER_MISTAKES.values(), ids=MBARRIER_MISTAKES)
def test_a_mistake_with_an_mbarrier_is_found(old, new, expected):
    assert MBARRIER.count(old) == 1
    assert expected in "\n".join(ptx_faults(MBARRIER.replace(old, new)))


# --- reading PTX ------------------------------------------------------------------------------------------------------


def test_blocks_and_operands():
    [function] = ptx.parse(GOOD)
    assert function.name == "kernel"
    assert [block.successors for block in function.blocks if block.instructions] == [[1], [1, 2], []]
    multiply = next(i for i in function.instructions if i.opcode.startswith("wgmma.mma_async"))
    assert multiply.operands[:3] == ("{%f1, %f2, %f3, %f4}", "%rd2", "%rd2")
    assert native_lint.operands_of(multiply) == {"%f1", "%f2", "%f3", "%f4"}
    load = next(i for i in function.instructions if i.opcode.startswith("ld.shared"))
    assert (load.writes, load.reads) == ({"%f5"}, {"%r2"})


def test_a_fragment_in_registers_is_used_too():
    loaded = GOOD.replace(
        MULTIPLY, MULTIPLY.replace("%rd2, %rd2, 1, 1, 1, 0, 0", "{%r5, %r6, %r7, %r8}, %rd2, 1, 1, 1, 0")
    )
    assert ptx_faults(loaded) == []
    late = loaded.replace("wgmma.fence.sync.aligned;", "wgmma.fence.sync.aligned; mov.u32 %r6, 0;")
    assert "wgmma uses %r6, which was written after" in ptx_faults(late)[0]


# --- machine code -----------------------------------------------------------------------------------------------------


def test_the_kernels_above_are_ptx_and_their_machine_code_is_right(tmp_path):
    for name, text in (("good", GOOD), ("mbarrier", MBARRIER)):
        file = tmp_path / f"{name}.ptx"
        file.write_text(text)
        assert check_file(file, ["sm_90a"]) == []


def test_serialised_products_are_found(tmp_path):
    """A read of an accumulator between two products: ptxas waits for each."""
    text = GOOD.replace(f"{MULTIPLY}\n  {MULTIPLY}", f"{MULTIPLY} add.f32 %f1, %f1, %f5; {MULTIPLY}")
    file = tmp_path / "serial.ptx"
    file.write_text(text)
    assert any("serialised" in fault or "serialized" in fault for fault in check_file(file, ["sm_90a"]))


def test_spills_are_found(tmp_path):
    """More sums than there are registers."""
    sums = 300
    loads = "".join(f"ld.global.f32 %f{i}, [%rd1+{4 * i}];\n" for i in range(sums))
    uses = "".join(f"st.global.f32 [%rd1+{4 * i}], %f{i};\n" for i in range(sums))
    text = f"""
.version 8.0
.target sm_80
.address_size 64
.visible .entry many(.param .u64 p)
.maxntid 1024, 1, 1
{{
.reg .f32 %f<{sums}>;
.reg .b64 %rd<3>;
ld.param.u64 %rd1, [p];
{loads}
membar.gl;
{uses}
ret;
}}
"""
    file = tmp_path / "many.ptx"
    file.write_text(text)
    assert any("spills" in fault for fault in check_file(file, ["sm_80"]))


LEAN = """
		Function : kernel
        /*0010*/                   LDGSTS.E.BYPASS.128 [R5], desc[UR16][R2.64] ;
        /*0020*/                   LDGDEPBAR ;
        /*0030*/                   DEPBAR.LE SB0, 0x0 ;
        /*0040*/                   FENCE.VIEW.ASYNC.S ;
        /*0050*/                   WARPGROUP.ARRIVE ;
        /*0060*/              @!P1 HGMMA.64x8x16.F32.BF16 R24, gdesc[UR4], R24 ;
        /*0070*/                   HGMMA.64x8x16.F32.BF16 R24, gdesc[UR4], R24, gsb0 ;
        /*0080*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
"""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("LDGDEPBAR", "LDGSTS without LDGDEPBAR"),
        ("DEPBAR.LE SB0", "LDGSTS without DEPBAR"),
        ("FENCE.VIEW", "without FENCE.VIEW.ASYNC"),
        ("WARPGROUP.ARRIVE", "HGMMA without WARPGROUP.ARRIVE"),
        ("WARPGROUP.DEPBAR", "HGMMA without WARPGROUP.DEPBAR"),
    ],
)
def test_what_is_missing_in_machine_code_is_found(line, expected):
    assert sass_faults(LEAN) == []
    without = "\n".join(text for text in LEAN.splitlines() if f" {line}" not in text)
    assert any(expected in fault for fault in sass_faults(without))
    assert any("local memory" in fault for fault in sass_faults(LEAN + "        /*0090*/  STL [R1], R2 ;\n"))


def test_the_command(tmp_path, capsys):
    file = tmp_path / "good.ptx"
    file.write_text(GOOD)
    assert native_lint.main([str(file), "--arch", "sm_90a"]) == 0
    assert "nothing found" in capsys.readouterr().out
    file.write_text(GOOD.replace("wgmma.commit_group.sync.aligned;", ""))
    assert native_lint.main([str(file), "--arch", "sm_90a"]) == 1
    assert "not committed" in capsys.readouterr().out
    file.write_text("nonsense")
    with pytest.raises(ValueError, match="ptxas"):
        native_lint.main([str(file), "--arch", "sm_90a"])
