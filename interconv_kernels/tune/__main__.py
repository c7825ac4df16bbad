"""Measures which kernels and tiles are fastest on this GPU for a network: `python -m interconv_kernels.tune`.

    python -m interconv_kernels.tune simpleunet-60K --size 160x192 --dtype bfloat16

Afterwards every layer with algorithm "auto", in any process, runs what was fastest. Tune with the image size, the dtype
and the memory format that you train with. Each result is saved as soon as it is known; Ctrl-C loses none.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

import torch
from torch import nn

from .. import tune
from ..sets import Sets
from ..tuned import Record
from ..tuning import VENDOR, tunable_backends

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


def main(arguments: Sequence[str] | None = None) -> int:
    """Tunes a network of `interconv_seg`; returns the exit status."""
    options = _parse(arguments)
    logging.basicConfig(format="%(message)s")
    device = torch.device(options.device)
    try:
        tunable_backends(device)
        network = _build(options.network, options.placement, options.in_channels).to(device)
        network = network.to(memory_format=FORMATS[options.memory_format])  # type: ignore[call-overload]
        sets = Sets.from_lengths([1], device)
        x = torch.zeros(1, options.in_channels, *options.size, device=device)
        dtype = DTYPES[options.dtype]
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            found = tune(network, x, sets, lengths=options.lengths)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(table(found))
    return 0


def table(found: dict[str, Record]) -> str:
    """The results as a Markdown table."""
    lines = ["| layer | fastest | ms | ms of the vendor's convolution |", "|---|---|---|---|"]
    for key, record in found.items():
        times = record["milliseconds"]
        best = min(times, key=lambda name: times[name])
        vendors = [time for name, time in times.items() if name.endswith(f" {VENDOR}")]
        vendor = f"{min(vendors):.3f}" if vendors else "wrong"
        lines.append(f"| {key} | {best} | {times[best]:.3f} | {vendor} |")
    return "\n".join(lines)


def _build(name: str, placement: str, in_channels: int) -> nn.Module:
    try:
        from interconv_seg import build
    except ImportError as error:
        raise ValueError(
            f"networks are known by name through interconv_seg, which cannot be imported ({error}):"
            " pip install 'interconv-kernels[seg]', or call interconv_kernels.tune(network, images, sets)"
        ) from None
    network: nn.Module = build(name, placement, in_channels=in_channels)  # type: ignore[arg-type]
    return network


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = map(int, text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected HEIGHTxWIDTH, such as 160x192") from None
    return height, width


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m interconv_kernels.tune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("network", help="a network of interconv_seg, such as simpleunet-60K ('interconv models' lists them)")
    add("--size", type=_size, default=(160, 192), metavar="HxW", help="of the images; default: 160x192")
    add("--dtype", choices=DTYPES, default="bfloat16", help="other than float32: by autocast; default: %(default)s")
    add("--placement", choices=("replace", "append"), default="replace", help="of InterConv; default: %(default)s")
    add("--in-channels", type=int, default=1, metavar="N", help="of the images, prompts included; default: 1")
    add("--memory-format", choices=FORMATS, default="channels_last", help="default: %(default)s, as in training")
    add("--lengths", type=int, nargs="+", default=[4, 1, 8, 3], metavar="K", help="set sizes; default: 4 1 8 3")
    add("--device", default="cuda", help="default: %(default)s")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
