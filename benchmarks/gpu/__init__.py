"""Tools that examine the GPU kernels for GPUs that are not present. Users do not need them.

    python -m benchmarks machine-code    compiles every Triton configuration for every GPU and checks the machine code
    python -m benchmarks native-lint     checks the PTX and machine code of CUDA kernels
    python -m benchmarks predict         PREDICTS times from the launches and from data sheets; nothing is measured

* `offline.py` records the launches of the library's launchers and compiles them for a GPU that is not present.
* `machine_code.py` lists the kernel configurations, checks the compiled code, and writes the table.
* `native_code.py` compiles the CUDA kernels of csrc/halo; `native_lint.py` holds rules for CUDA kernels, `ptx.py` reads
  their PTX.
* `predict.py` counts what the Triton launches compute and move, `native.py` what the kernels of csrc/halo do, and
  `torch_ops.py` what torch's operators do. `predict_layers.py` and `predict_networks.py` predict with them;
  `predictions.py` is the command.

`make gpu-table` writes the tables into docs/internals/gpu-tables.md. tests/kernels/test_machine_code.py checks them.
"""
