"""Runs of lottery tickets on a few drawn pictures."""

from spade_xai.lottery.data.open import open_data
from spade_xai.lottery.folder import Pruning, Run
from spade_xai.lottery.maps import MapSettings, maps_stage
from spade_xai.lottery.networks import network_for
from spade_xai.lottery.pcbm import PCBMSettings
from spade_xai.lottery.settings import bank_of, training_of
from spade_xai.lottery.stages import concepts_stage, pcbm_stage
from spade_xai.lottery.tickets import find_tickets

DATA = {"kind": "shapes", "train": 96, "validation": 36, "test": 36, "concepts": 120}
THREE = Pruning(rounds=3, share=0.3)


def tiny(path, **training):
    """Begin a run."""
    data = open_data(DATA)
    chosen = {"epochs": 2, "first_epochs": 2, **training}
    network = network_for("shapes", data, 32)
    return Run.start(path, DATA, network, training_of("shapes", **chosen), data.digest())


def finished(path):
    """Tickets of two seeds, banks, bottlenecks and maps."""
    run = tiny(path)
    for seed in (0, 1):
        find_tickets(run, THREE, seed)
    concepts_stage(run, "shapes", bank_of("shapes", count=20))
    pcbm_stage(run, PCBMSettings(epochs=20, residual=True))
    maps_stage(run, MapSettings(insertion=2))
    return run
