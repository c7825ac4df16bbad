"""Training: Adam, validation, early stopping, mixed precision, checkpoints that go on with the same bits.

All that is random in a step is a function of the config's seed and the step, so a checkpoint needs no random state; nor
does it need the learning rate's schedule, which is a function of the step too.
"""

from __future__ import annotations

import math
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from .data import Batch
from .evaluation import dice_of, probabilities_of
from .losses import automatic_loss, interactive_loss
from .metrics_file import MetricsFile
from .runs import Config, load_checkpoint, save_checkpoint
from .seeding import seed_of

AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}
COLUMNS = (
    "step",
    "loss",  # of training, per sample, over the interval
    "validation_loss",  # per sample
    "validation_dice",  # the mean over samples
    "learning_rate",
    "images_per_second",  # while training, loading of data included
    "peak_memory_mb",  # of the GPU's tensors, or of the process
)


class Batches(Protocol):
    """Batch `step` is a pure function of the step, as `SetBatches` has it."""

    def __getitem__(self, step: int) -> Batch: ...


class Training:
    """A network in training: what a checkpoint holds, and a step.

    Attributes:
        step: steps done. best_loss, best_step: the least validation loss, and after how many steps it was.
        loss_sum, samples: since the last validation, the sum over samples of their losses, and their number.

    Raises:
        ValueError: float16 elsewhere than on CUDA (gradients need the scaler, which is for CUDA).
    """

    def __init__(self, config: Config, device: torch.device | str = "cpu"):
        self.config, self.device = config, torch.device(device)
        if config.precision == "float16" and self.device.type != "cuda":
            raise ValueError(f"precision = 'float16' on {self.device}: expected a CUDA device (bfloat16 runs anywhere)")
        self.network = config.new_network()
        # the faster format for the layers and for cuDNN
        self.network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "float16")
        self.loss_of = interactive_loss if config.mode == "interactive" else automatic_loss
        self.step, self.best_step, self.best_loss = 0, 0, math.inf
        self.loss_sum, self.samples = torch.zeros((), dtype=torch.float64, device=self.device), 0

    def run_step(self, batch: Batch) -> None:
        """One step of Adam on a batch, which goes through the network in `config.accumulate` parts."""
        torch.manual_seed(seed_of(self.config.seed, "step", self.step))  # for SwinUNet's stochastic depth
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        self.network.train()
        self.optimizer.zero_grad()
        for part in batch.split(self.config.accumulate):
            # a batch's loss is a mean over its sets: parts count by theirs
            loss = self._loss(part) * (len(part.groups) / len(batch.groups))
            self.scaler.scale(loss).backward()
            self.loss_sum += loss.detach().double() * len(batch.groups)
            self.samples += len(part.images)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        if self.config.schedule == "constant":
            return self.config.learning_rate
        return self.config.learning_rate * 0.5 * (1 + math.cos(math.pi * self.step / self.config.steps))

    @torch.no_grad()
    def validate(self, batches: Sequence[Batch]) -> tuple[float, float]:
        """The loss per sample, and the mean Dice over samples (`dice_of`)."""
        self.network.eval()
        loss, dice = 0.0, []
        for batch in batches:
            moved = batch.to(self.device)
            with self._autocast():
                logits = self.network(moved.inputs, moved.sets)
            assert moved.masks is not None
            loss += float(self.loss_of(logits, moved.masks, moved.sets)) * len(batch.groups)
            dice.append(dice_of(probabilities_of(logits).argmax(1), moved.masks, max(2, self.config.classes)))
        return loss / sum(len(batch.images) for batch in batches), float(torch.cat(dice).nanmean(1).nanmean())

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "best_step": self.best_step,
            "best_loss": self.best_loss,
            "loss_sum": self.loss_sum,
            "samples": self.samples,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.best_step, self.best_loss = state["step"], state["best_step"], state["best_loss"]
        self.loss_sum, self.samples = state["loss_sum"], state["samples"]

    def _loss(self, batch: Batch) -> Tensor:
        moved = batch.to(self.device, non_blocking=True)
        assert moved.masks is not None
        with self._autocast():
            logits = self.network(moved.inputs, moved.sets)
        return self.loss_of(logits, moved.masks, moved.sets)

    def _autocast(self) -> torch.autocast:
        dtype = AUTOCAST.get(self.config.precision)
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)


def train(
    folder: Path,
    config: Config,
    batches: Batches,
    validation: Sequence[Batch],
    *,
    device: torch.device | str = "cpu",
    workers: int = 0,
    interrupted: Callable[[], bool] = lambda: False,
) -> Training:
    """Train a network, from the start or from the folder's last checkpoint, to the last step or until validation says
    stop; see `runs` for what is in the folder then.

    Killed at any time and called again, it ends with the same bits as if it had never been (on a GPU, with torch's
    deterministic algorithms).

    Args:
        folder: of the run. batches: of training. validation: the batches of each validation, with masks.
        workers: processes that prepare batches; 0: this one does.
        interrupted: asked after each step; when true, a checkpoint is written and KeyboardInterrupt raised.

    Raises:
        ValueError: the folder holds a run with another config, or a broken checkpoint; no validation.
        FloatingPointError: the loss is no longer finite.
    """
    if not validation:
        raise ValueError("no validation batches: expected at least one")
    training = Training(config, device)
    if (folder / "config.json").exists() and Config.read(folder) != config:
        raise ValueError(f"{folder}: holds a run with another config, expected a new folder or the same config")
    config.write(folder)
    if (folder / "last.pt").exists():
        training.load(load_checkpoint(folder / "last.pt", training.device))
    loader: DataLoader[Batch] = DataLoader(
        batches,  # type: ignore[arg-type]
        batch_size=None,
        sampler=range(training.step, config.steps),
        num_workers=workers,
        pin_memory=training.device.type == "cuda",
        worker_init_fn=_leave_interrupts_to_the_parent,
    )
    metrics = MetricsFile(folder / "metrics.csv", COLUMNS, first_steps=training.step)
    board = SummaryWriter(str(folder / "tensorboard"), purge_step=training.step + 1)
    prepared = iter(loader)
    images, start = 0, time.perf_counter()
    with board, tqdm(total=config.steps, initial=training.step, desc=folder.name, unit="step", disable=None) as bar:
        while training.step < config.steps and training.step - training.best_step < config.patience:
            batch = next(prepared)
            training.run_step(batch)
            images += len(batch.images)
            bar.update()
            last = training.step == config.steps
            if training.step % config.interval == 0 or last:
                row = _finish_interval(training, folder, validation, metrics, images, start)
                for name, value in row.items():
                    board.add_scalar(name, value, training.step)
                bar.write(_line(row, training), file=sys.stdout)
                images, start = 0, time.perf_counter()
            if interrupted() and not last:
                save_checkpoint(folder / "last.pt", training.state())
                raise KeyboardInterrupt
    return training


def _finish_interval(
    training: Training, folder: Path, validation: Sequence[Batch], metrics: MetricsFile, images: int, start: float
) -> dict[str, float]:
    """Validate, log, save. The row is on the disk before the checkpoint that says its step is done."""
    loss = float(training.loss_sum) / training.samples  # waits for the device, so that the time is right
    seconds = time.perf_counter() - start
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"{folder}: the loss is {loss} at step {training.step}; a lower learning rate may help"
        )
    rate = training.optimizer.param_groups[0]["lr"]
    validation_loss, validation_dice = training.validate(validation)
    figures = (loss, validation_loss, validation_dice, rate, images / seconds, _peak_memory_mb(training.device))
    row = dict(zip(COLUMNS, (training.step, *figures), strict=True))
    metrics.append(row)
    training.loss_sum.zero_()
    training.samples = 0
    if validation_loss < training.best_loss:
        training.best_loss, training.best_step = validation_loss, training.step
        best = {"network": training.network.state_dict(), "step": training.step, "validation_loss": validation_loss}
        save_checkpoint(folder / "best.pt", best)
    save_checkpoint(folder / "last.pt", training.state())
    return row


def _line(row: dict[str, float], training: Training) -> str:
    best = "best" if training.best_step == training.step else f"best {training.best_loss:.4f} at {training.best_step}"
    return (
        f"step {row['step']}: loss {row['loss']:.4f}, validation {row['validation_loss']:.4f} ({best}), Dice"
        f" {row['validation_dice']:.3f}, {row['images_per_second']:.0f} images/s, {row['peak_memory_mb']:.0f} MB"
    )


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _leave_interrupts_to_the_parent(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
