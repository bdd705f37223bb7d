"""State of a training with SGD between two epochs, in a file: a killed training goes on from its last whole epoch."""

from pathlib import Path

import torch
from torch import Tensor, nn

from spade_ext.files import read_tensors, write_tensors

FORMAT = "spade_xai.Training.1"


class Checkpoint:
    """The file of one training.

    Args:
        path: The file; its folder is there.
        run: A name of everything that the training depends on.
    """

    def __init__(self, path: Path, run: str) -> None:
        self.path, self.run = path, run

    def load(self, model: nn.Module, optimizer: torch.optim.SGD, order: torch.Generator) -> int:
        """Take over weights, momentum and the order's state; give the epochs done, 0 without a file.

        Raises:
            ValueError: The file is damaged, or of another training.
        """
        if not self.path.exists():
            return 0
        tensors, about = read_tensors("fine_tune", self.path, FORMAT)
        if about.get("run") != self.run:
            raise ValueError(
                f"fine_tune: checkpoint must be of this training, got {self.path} of another one: remove it, or give "
                "another place"
            )
        state = {k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")}
        model.load_state_dict(state)
        for k, parameter in enumerate(_parameters(optimizer)):
            if (momentum := tensors.get(f"momentum/{k}")) is not None:
                optimizer.state[parameter]["momentum_buffer"] = momentum.to(parameter.device)
        order.set_state(tensors["order"])
        return int(about["epochs"])

    def save(
        self, model: nn.Module, optimizer: torch.optim.SGD, order: torch.Generator, epochs: int
    ) -> None:
        """Write the state after so many epochs."""
        tensors = {f"model/{name}": value.detach() for name, value in model.state_dict().items()}
        for k, parameter in enumerate(_parameters(optimizer)):
            momentum = optimizer.state.get(parameter, {}).get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum/{k}"] = momentum
        tensors["order"] = order.get_state()
        apart = {name: value.cpu().clone() for name, value in tensors.items()}
        about = {"run": self.run, "epochs": str(epochs)}
        write_tensors("fine_tune", self.path, FORMAT, apart, about)


def _parameters(optimizer: torch.optim.SGD) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
