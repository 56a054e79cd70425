import shutil
import sys
from pathlib import Path

import pytest
import torch

from irgrow.training.loop import Run

sys.path.insert(0, str(Path(__file__).parent))

from small_runs import VARIANTS, Keep, job, trained


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Use one thread: networks as small as these only wait for the others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_picture(monkeypatch, request):
    """Draw nothing, which takes longer than the training, but where the picture is asked about."""
    if "picture" not in request.node.nodeid:
        monkeypatch.setattr("irgrow.training.picture.draw_history", lambda history, path: False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of a run that nobody stopped, made when it is first asked for."""
    made = {}

    def folder(variant):
        if variant not in made:
            made[variant] = tmp_path_factory.mktemp(variant)
            torch.manual_seed(1)
            trained(made[variant], *VARIANTS[variant])
        return made[variant]

    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a function that lays down the folder of a run that saved after a step and went no further."""
    made = {}

    def lay_down(folder, variant, after):
        if variant not in made:
            place = made[variant] = tmp_path_factory.mktemp(f"{variant}-saved")
            torch.manual_seed(2)
            keep = Keep(place)
            keep.run = Run(job(*VARIANTS[variant]), place / "run", watcher=keep)
            keep.run.run()
        shutil.copytree(made[variant] / str(after), folder, dirs_exist_ok=True)
        torch.manual_seed(4711)
        return folder

    return lay_down


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """Work in an empty folder, so that files are named without one."""
    monkeypatch.chdir(tmp_path)
