"""Tools that examine the Triton kernels for GPUs that are not present. Users do not need them.

    python -m benchmarks machine-code    compiles every kernel configuration for every GPU and checks the machine code
    python -m benchmarks predict         PREDICTS times from the launches and from data sheets; nothing is measured

* `offline.py` records the launches of the library's launchers and compiles them for a GPU that is not present.
* `machine_code.py` lists the kernel configurations, checks the compiled code, and writes the table.
* `predict.py` counts what the launches compute and move, and writes the tables of predicted times.

`make gpu-table` writes the tables into docs/internals/gpu-tables.md. tests/kernels/test_machine_code.py checks them.
"""
