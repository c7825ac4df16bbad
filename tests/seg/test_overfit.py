"""Each family overfits one small set."""

import pytest
import torch
from interconv_seg import automatic_loss, build, interactive_loss

FEATURES = {"simpleunet": 12, "nnunet": (8, 16, 16), "swinunet": 24, "scribbleprompt": 12}


def one_set():
    """Three noisy images [3, 1, 32, 32] of a disc in a ring at different positions; classes [3, 32, 32]."""
    random = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    masks = []
    for row, column in ((12, 12), (14, 18), (18, 14)):
        distance = ((y - row) ** 2 + (x - column) ** 2).sqrt()
        masks.append((distance < 10).long() + (distance < 6).long())
    masks = torch.stack(masks)
    return masks[:, None] / 2 + 0.2 * torch.randn((3, 1, 32, 32), generator=random), masks


@pytest.mark.parametrize("interconv", ["replace", "append"])
@pytest.mark.parametrize("family", FEATURES)
def test_overfit(family, interconv):
    torch.manual_seed(0)
    images, masks = one_set()
    interactive = family == "scribbleprompt"
    if interactive:
        masks = (masks == 2).long()
    network = build(family, interconv, classes=1 if interactive else 3, features=FEATURES[family])
    loss_of = interactive_loss if interactive else automatic_loss
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for step in range(300):
        optimizer.zero_grad()
        loss_of(network.train()(images, [3]), masks, [3]).backward()
        optimizer.step()
        if step % 10 == 9:
            with torch.no_grad():
                logits = network.eval()(images, [3])
            found = (logits[:, 0] > 0).long() if interactive else logits.argmax(1)
            dice = [
                2 * ((found == c) & (masks == c)).sum().item() / ((found == c).sum() + (masks == c).sum()).item()
                for c in range(1, int(masks.max()) + 1)
            ]
            if min(dice) > 0.95:
                return
    pytest.fail(f"Dice {dice} after {step + 1} steps")
