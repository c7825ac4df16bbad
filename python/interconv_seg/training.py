"""Training: optimization, validation, early stopping, mixed precision, and checkpoints that resume with the same bits.

All randomness of a step, and its learning rate, are functions of the config and the step. So a checkpoint holds neither
a random state nor the state of a schedule.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from .checkpoints import load_checkpoint, save_checkpoint
from .config import FILE, Config
from .corrections import correction_rounds
from .data import Batch
from .folder_lock import locked
from .inference import class_probabilities
from .losses import automatic_loss, interactive_loss
from .metrics import dice_scores
from .runs import load_weights, warm_start
from .seeding import seed_of
from .training_log import COLUMNS, HELD_OUT_COLUMNS, TrainingLog, peak_memory_mb

POLY_EXPONENT = 0.9  # as in nnU-Net
NNUNET_MOMENTUM = 0.99
AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Batches(Protocol):
    """Training batches. Batch `step` is a pure function of the step, as in `SetBatches`."""

    def __getitem__(self, step: int) -> Batch: ...


class Training:
    """A network in training: its steps, its validation, and the state that a checkpoint holds.

    Attributes:
        step: the number of steps done.
        best_loss: the lowest validation loss so far; with `config.selection` "dice", the lowest 1 - Dice.
        best_step: the number of steps after which it was reached.
        loss_sum: the sum over samples of their losses since the last validation, a float64 scalar on the device.
        samples: the number of samples since the last validation.

    Args:
        config: the configuration.
        device: where the network is trained.

    Raises:
        ValueError: float16 on another device than CUDA (its gradients need the scaler, which supports only CUDA).
    """

    def __init__(self, config: Config, device: torch.device | str = "cpu"):
        self.config, self.device = config, torch.device(device)
        if config.precision == "float16" and self.device.type != "cuda":
            raise ValueError(f"precision = 'float16' on {self.device}: expected a CUDA device (bfloat16 runs anywhere)")
        self.network = config.new_network().to_device(self.device)
        self.optimizer = _optimizer(config, self.network)
        self.averaged: AveragedModel | None = None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "float16")
        self.loss_function: Callable[..., Tensor] = automatic_loss
        if config.mode == "interactive":
            self.loss_function = partial(
                interactive_loss, focal_gamma=config.focal_gamma, squared_dice=config.squared_dice
            )
        self.step, self.best_step, self.best_loss = 0, 0, math.inf
        self.loss_sum, self.samples = torch.zeros((), dtype=torch.float64, device=self.device), 0

    def run_step(self, batch: Batch) -> None:
        """One step of the optimizer on a batch, which passes through the network in `config.accumulate` parts.

        Args:
            batch: with masks, on any device.
        """
        torch.manual_seed(seed_of(self.config.seed, "step", self.step))  # for SwinUNet's stochastic depth
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        self.network.train()
        self.optimizer.zero_grad()
        first = 0
        for part in batch.split(self.config.accumulate):
            # The loss of a part is a mean over its sets; that of the batch, over its sets or its images and the rounds.
            weight = len(part.groups) / (self._divisor(batch) * self.config.rounds)
            for round_loss, _ in self._rounds(self.network, part, first, "step", self.step):
                loss = round_loss * weight
                self.scaler.scale(loss).backward()
                self.loss_sum += loss.detach().double() * self._divisor(batch)
            first += len(part.images)
            self.samples += len(part.images)
        if self.config.clip is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._average()
        self.step += 1

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        progress = self.step / self.config.steps
        factors = {
            "constant": 1.0,
            "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
            "poly": (1 - progress) ** POLY_EXPONENT,
        }
        warm = min(1.0, (self.step + 1) / (self.config.warmup + 1))
        return self.config.learning_rate * warm * factors[self.config.schedule]

    @property
    def best_network(self) -> torch.nn.Module:
        """The network that is validated: with averaged weights, if they are averaged."""
        return self.network if self.averaged is None else self.averaged.module

    def _divisor(self, batch: Batch) -> int:
        return len(batch.groups) if self.config.images_per_batch is None else len(batch.images)

    def _average(self) -> None:
        """Takes the weights of this step into their average, which begins with those of the first step."""
        if self.config.ema is None:
            return
        if self.averaged is None:
            self.averaged = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(self.config.ema))
        self.averaged.update_parameters(self.network)

    @torch.no_grad()
    def validate(self, batches: Sequence[Batch]) -> tuple[float, float]:
        """Validates the network.

        Args:
            batches: with masks, on any device.

        Returns:
            The loss per sample, and the mean over samples of their mean Dice (`dice_scores`), over all rounds.
        """
        network = self.best_network.eval()
        loss, images, dice = 0.0, 0, []
        for i, batch in enumerate(batches):
            assert batch.masks is not None
            images += len(batch.images)
            for round_loss, logits in self._rounds(network, batch, 0, "validation", i):
                loss += float(round_loss) * len(batch.groups)
                predicted = class_probabilities(logits).argmax(1)
                dice.append(dice_scores(predicted, batch.masks.to(self.device), max(2, self.config.classes)))
        return loss / (self.config.rounds * images), float(torch.cat(dice).nanmean(1).nanmean())

    def state(self) -> dict[str, Any]:
        """The state that a checkpoint holds."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "best_step": self.best_step,
            "best_loss": self.best_loss,
            "loss_sum": self.loss_sum,
            "samples": self.samples,
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
        }

    def load(self, file: Path) -> None:
        """Continues from a checkpoint.

        Args:
            file: with a state as from `state`.

        Raises:
            ValueError: the checkpoint cannot be used, or is not of this network.
        """
        state = load_checkpoint(file, self.device)
        try:
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.step, self.best_step, self.best_loss = state["step"], state["best_step"], state["best_loss"]
            self.loss_sum, self.samples = state["loss_sum"], state["samples"]
            if state.get("averaged") is not None:
                self._average()
                assert self.averaged is not None
                self.averaged.load_state_dict(state["averaged"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise ValueError(f"{file}: does not fit the training ({' '.join(str(error).split())[:300]})") from error

    def _rounds(
        self, network: torch.nn.Module, batch: Batch, first: int, *name: int | str
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The loss and the finest logits of each round.

        The seeds of corrections are those of `name` and of the number of the sample, counted from `first`.
        """

        def predict(part: Batch) -> tuple[tuple[Tensor, Tensor], Tensor]:
            assert part.masks is not None
            with self._autocast():
                logits = network(part.inputs, part.sets)
            finest = logits[0] if isinstance(logits, list) else logits
            return (self.loss_function(logits, part.masks, part.sets), finest), finest.detach()[:, 0] > 0

        config, samples = self.config, range(first, first + len(batch.images))
        seeds = [seed_of(config.seed, *name, i) for i in samples]
        moved = batch.to(self.device, non_blocking=True)
        return correction_rounds(moved, predict, config.rounds, seeds, kind=config.kind, scribbles=config.scribbles)

    def _autocast(self) -> torch.autocast:
        dtype = AUTOCAST.get(self.config.precision)
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)


def _optimizer(config: Config, network: torch.nn.Module) -> torch.optim.Optimizer:
    parameters, rate, decay = network.parameters(), config.learning_rate, config.weight_decay
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
    return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, momentum=NNUNET_MOMENTUM, nesterov=True)


def train(
    folder: Path,
    config: Config,
    batches: Batches,
    validation: Sequence[Batch],
    *,
    held_out: Sequence[Batch] = (),
    device: torch.device | str = "cpu",
    workers: int = 0,
    interrupted: Callable[[], bool] = lambda: False,
) -> Training:
    """Trains a network, from the start or from the folder's last checkpoint, to the last step or early stopping.

    The folder then holds the files that `runs` lists. Only one process at a time can train in it. A training that is
    killed at any time and called again ends with the same bits as one that is not interrupted (on a GPU: with torch's
    deterministic algorithms).

    Args:
        folder: of the run.
        config: the configuration.
        batches: of training.
        validation: the batches of each validation, with masks. They decide which weights are the best.
        held_out: further batches to validate on, which are logged and decide nothing.
        device: where the network is trained.
        workers: the number of processes that prepare batches; 0: this process prepares them.
        interrupted: called after each step. If it returns True, a checkpoint is written and KeyboardInterrupt is
            raised.

    Returns:
        The finished training.

    Raises:
        ValueError: the folder holds a run with another config or a checkpoint that cannot be used, another process
            trains in it, there are no validation batches, or the initial weights do not fit.
        FloatingPointError: the loss is not finite.
        OSError: a file cannot be written. What was saved before is kept.
        KeyboardInterrupt: `interrupted` returned True.
    """
    if not validation:
        raise ValueError("no validation batches: expected at least one")
    with locked(folder):
        return _train(folder, config, batches, validation, held_out, torch.device(device), workers, interrupted)


def _train(
    folder: Path,
    config: Config,
    batches: Batches,
    validation: Sequence[Batch],
    held_out: Sequence[Batch],
    device: torch.device,
    workers: int,
    interrupted: Callable[[], bool],
) -> Training:
    training = Training(config, device)
    if (folder / FILE).exists() and Config.read(folder) != config:
        raise ValueError(f"{folder}: holds a run with another config, expected a new folder or the same config")
    config.write(folder)
    if (folder / "last.pt").exists():
        training.load(folder / "last.pt")
    elif config.initial is not None:
        load_weights(training.network, Path(config.initial) / "best.pt", training.device)
    elif config.warm_start is not None:
        warm_start(training.network, Path(config.warm_start), training.device)
    loader: DataLoader[Batch] = DataLoader(
        batches,  # type: ignore[arg-type]
        batch_size=None,
        sampler=range(training.step, config.steps),
        num_workers=workers,
        pin_memory=training.device.type == "cuda",
        worker_init_fn=_ignore_interrupts,
    )
    columns = (*COLUMNS, *HELD_OUT_COLUMNS) if held_out else COLUMNS
    log = TrainingLog(folder / "metrics.csv", columns, last_step=training.step)
    board = SummaryWriter(str(folder / "tensorboard"), purge_step=training.step + 1)
    loaded = iter(loader)
    images, start = 0, time.perf_counter()
    with board, tqdm(total=config.steps, initial=training.step, desc=folder.name, unit="step", disable=None) as bar:
        while training.step < config.steps and training.step - training.best_step < config.patience:
            batch = next(loaded)
            training.run_step(batch)
            images += len(batch.images)
            bar.update()
            last = training.step == config.steps
            if training.step % config.interval == 0 or last:
                row = _finish_interval(training, folder, validation, held_out, log, images, start)
                for name, value in row.items():
                    board.add_scalar(name, value, training.step)
                bar.write(_progress_line(row, training), file=sys.stdout)
                images, start = 0, time.perf_counter()
            if interrupted() and not last:
                save_checkpoint(folder / "last.pt", training.state())
                raise KeyboardInterrupt
    return training


def _finish_interval(
    training: Training,
    folder: Path,
    validation: Sequence[Batch],
    held_out: Sequence[Batch],
    log: TrainingLog,
    images: int,
    start: float,
) -> dict[str, float]:
    """Validates, logs and saves. The row is on disk before the checkpoint of its step."""
    loss = float(training.loss_sum) / training.samples  # waits for the device, so the time is complete
    seconds = time.perf_counter() - start
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"{folder}: the loss is {loss} at step {training.step}; a lower learning rate may help"
        )
    rate = training.optimizer.param_groups[0]["lr"]
    validation_loss, validation_dice = training.validate(validation)
    if not math.isfinite(validation_loss):
        raise FloatingPointError(
            f"{folder}: the validation loss is {validation_loss} at step {training.step}; a lower learning rate may"
            " help"
        )
    values = (loss, validation_loss, validation_dice, rate, images / seconds, peak_memory_mb(training.device))
    row = dict(zip(COLUMNS, (training.step, *values), strict=True))
    if held_out:
        row |= dict(zip(HELD_OUT_COLUMNS, training.validate(held_out), strict=True))
    log.append(row)
    training.loss_sum.zero_()
    training.samples = 0
    found = validation_loss if training.config.selection == "loss" else 1 - validation_dice
    if math.isnan(found):
        raise ValueError(f"{folder}: no image for validation has a structure, expected some to select weights by Dice")
    if found < training.best_loss:
        training.best_loss, training.best_step = found, training.step
        best = {
            "network": training.best_network.state_dict(),
            "step": training.step,
            "validation_loss": validation_loss,
        }
        save_checkpoint(folder / "best.pt", best)
    save_checkpoint(folder / "last.pt", training.state())
    return row


def _progress_line(row: dict[str, float], training: Training) -> str:
    best = "best" if training.best_step == training.step else f"best at {training.best_step}"
    return (
        f"step {row['step']}: loss {row['loss']:.4f}, validation {row['validation_loss']:.4f} ({best}), Dice"
        f" {row['validation_dice']:.3f}, {row['images_per_second']:.0f} images/s, {row['peak_memory_mb']:.0f} MB"
    )


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C in a terminal reaches all processes; only the main process shall handle it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
