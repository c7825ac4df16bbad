"""The backends. `contract.py` says what a backend must do, `registry.py` lists them and chooses one.

Each backend is a folder with `set_ops.py` and, if it has a fused layer, `fused.py`. (`ik.backends` is a function, so
this folder has another name.)
"""
