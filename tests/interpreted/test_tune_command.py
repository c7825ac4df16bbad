"""`python -m interconv_kernels.tune`, in Triton's interpreter."""

import json
import logging
import subprocess
import sys

import pytest

import interconv_kernels as ik
from interconv_kernels import tuning
from interconv_kernels.tune import __main__ as command


@pytest.fixture
def logging_as_before(monkeypatch):
    monkeypatch.setattr(logging, "basicConfig", lambda **options: None)


def test_the_command_tunes_a_network_by_name(cache, monkeypatch, capsys, logging_as_before):
    pytest.importorskip("interconv_seg")
    monkeypatch.setattr(tuning, "milliseconds", lambda run, device: 0.5)
    monkeypatch.setattr(command, "_build", lambda *arguments: ik.SetModel(ik.InterConv2d(arguments[2], 2)))
    options = ["tiny", "--size", "4x5", "--dtype", "bfloat16", "--device", "cpu", "--lengths", "2", "1"]
    assert command.main([*options, "--in-channels", "8"]) == 0
    [records] = json.loads(cache.read_text()).values()
    assert sorted(records) == [
        f"{direction} C8 Co2 k3x3 stride1x1 padding1x1 dilation1x1 bfloat16 channels_last HW2^4"
        for direction in ("backward", "forward")
    ]
    assert capsys.readouterr().out.count("| 0.500 | 0.500 |") == 2


def test_the_command_says_what_is_missing(cache, monkeypatch, capsys, logging_as_before):
    assert command.main(["no-such-net", "--device", "cpu"]) == 2
    assert "unknown network 'no-such-net'" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "interconv_seg", None)
    assert command.main(["simpleunet-60K", "--device", "cpu"]) == 2
    assert "pip install 'interconv-kernels[seg]'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["simpleunet-60K", "--size", "160"])
    assert "expected HEIGHTxWIDTH" in capsys.readouterr().err


def test_the_command_can_be_interrupted(cache, monkeypatch, logging_as_before):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "tune", interrupt)
    monkeypatch.setattr(command, "_build", lambda *arguments: ik.InterConv2d(1))
    assert command.main(["tiny", "--device", "cpu"]) == 130


ONE_NAME = """
import importlib, inspect, sys
import interconv_kernels as ik
import interconv_kernels.tune
import interconv_kernels.tune.__main__
importlib.import_module("interconv_kernels.tune")
assert inspect.isfunction(ik.tune)
assert sys.modules["interconv_kernels.tune"].tune is ik.tune
from interconv_kernels.tune import tune
assert tune is ik.tune
"""


def test_the_function_and_the_command_have_one_name():
    for arguments in (["-c", ONE_NAME], ["-m", "interconv_kernels.tune", "--help"]):
        done = subprocess.run([sys.executable, "-W", "error", *arguments], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: python -m interconv_kernels.tune")
