"""Checkpoints of a training run: written whole or not at all, read back where there is one."""

from __future__ import annotations

import torch


def save(trainer, parts: tuple[str, ...]) -> None:
    """Stores the named modules and optimisers of a trainer with its EMA and step in its run folder."""
    part = trainer.run / "checkpoint.part"
    states = {name: getattr(trainer, name).state_dict() for name in parts}
    torch.save({**states, "ema": trainer.ema, "step": trainer.step}, part)
    part.replace(trainer.run / "checkpoint.pt")


def resume(trainer, parts: tuple[str, ...]) -> None:
    """The inverse of `save`; a run folder without a checkpoint leaves the trainer as it is."""
    path = trainer.run / "checkpoint.pt"
    if path.exists():
        stored = torch.load(path, map_location=trainer.device)
        for name in parts:
            getattr(trainer, name).load_state_dict(stored[name])
        trainer.ema, trainer.step = stored["ema"], stored["step"]
