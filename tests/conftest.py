import torch

# Uninitialised memory is filled with NaN, so that a result that was never written cannot look right by chance.
torch.use_deterministic_algorithms(True)
torch.utils.deterministic.fill_uninitialized_memory = True
