"""Checkpoints: bit-identical continuation in a fresh process, every damage detected, nothing lost on a crash."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from irgrow import checkpoint
from irgrow.errors import CheckpointError
from irgrow.network import build

NET = """
net cnn(x: [2, 6, 6]) {
  return x |> stem: conv(4, kernel = 3, padding = 1) |> batchnorm |> relu |> flatten |> h: dense(5) |> relu |> dense(3)
}
"""


def make(text=NET):
    net = build(text, seed=1)
    opt = torch.optim.AdamW(net.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 100)
    net.track(opt, scheduler)
    return net, opt, scheduler


def step(net, opt, scheduler, i):
    x = torch.randn(4, *net.graph.shape("x"), generator=torch.Generator().manual_seed(i))
    opt.zero_grad()
    loss = net(x).square().mean()
    loss.backward()
    opt.step()
    scheduler.step()
    return loss.item()


@pytest.fixture
def saved(tmp_path):
    net, opt, scheduler = make()
    for i in range(3):
        step(net, opt, scheduler, i)
    assert net.rewrite("grow_units(h, 2)").applied
    step(net, opt, scheduler, 3)
    net.params["stem.bias"].requires_grad_(False)
    checkpoint.save(net, tmp_path / "ck", {"note": [1, 2.5, None]}, {"mine": torch.arange(3)})
    return net, opt, scheduler, tmp_path / "ck"


def taken_up(folder):
    read = checkpoint.read(folder)
    net = checkpoint.network(read)
    opt = torch.optim.AdamW(net.parameters(), lr=9.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 100)
    net.track(opt, scheduler)
    checkpoint.restore(net, read)
    return net, opt, scheduler


def test_continuing_is_bit_identical(saved):
    net, opt, scheduler, folder = saved
    other, other_opt, other_scheduler = taken_up(folder)
    assert other.graph == net.graph
    assert str(other.journal) == str(net.journal)
    assert not other.params["stem.bias"].requires_grad
    for i in range(4, 10):
        assert step(net, opt, scheduler, i) == step(other, other_opt, other_scheduler, i)
        if i == 6:
            assert net.rewrite("grow_units(h, 1)").applied
            assert other.rewrite("grow_units(h, 1)").applied
    for name, value in net.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_a_fresh_process_needs_only_the_folder(saved):
    net, _, _, folder = saved
    code = f"""
import torch, irgrow
net = irgrow.load({str(folder)!r}).eval()
x = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(7))
print(net(x).double().sum().item().hex())
"""
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    x = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(7))
    assert float.fromhex(out) == net.eval()(x).double().sum().item()


def test_the_folder_holds_what_it_says(saved):
    folder = saved[3]
    assert {p.name for p in folder.iterdir()} == {*checkpoint.FILES, checkpoint.MANIFEST}
    manifest = json.loads((folder / checkpoint.MANIFEST).read_text())
    assert manifest["format"] == checkpoint.FORMAT
    assert manifest["program"] == saved[0].graph.digest
    read = checkpoint.read(folder)
    assert read.run["extra"] == {"note": [1, 2.5, None]}
    assert torch.equal(read.tensors["run/mine"], torch.arange(3))
    assert b"pickle" not in b"".join(p.read_bytes() for p in folder.iterdir())


def test_every_flipped_byte_is_detected(saved):
    folder = saved[3]
    rng = random.Random(3)
    files = sorted(folder.iterdir())
    checkpoint.read(folder)
    for number in range(1500):
        path = rng.choice(files)
        data = path.read_bytes()
        way = rng.randrange(3)
        broken = bytearray(data)
        place = rng.randrange(len(data))
        if way == 0:
            broken[place] ^= 1 << rng.randrange(8)
        elif way == 1:
            del broken[place : place + rng.randint(1, 40)]
        else:
            broken[place:place] = rng.randbytes(rng.randint(1, 9))
        path.write_bytes(bytes(broken))
        with pytest.raises(CheckpointError) as error:
            checkpoint.read(folder)
        assert str(folder) in str(error.value), number
        path.write_bytes(data)
    checkpoint.read(folder)


@pytest.mark.parametrize("name", [*checkpoint.FILES, checkpoint.MANIFEST])
def test_missing_files_are_named(saved, name):
    folder = saved[3]
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        checkpoint.read(folder)


def resealed(folder, change):
    """Change the manifest as somebody would who can count hashes."""
    manifest = json.loads((folder / checkpoint.MANIFEST).read_text())
    change(manifest)
    (folder / checkpoint.MANIFEST).write_bytes(checkpoint._sealed(manifest))


def test_newer_versions_and_strange_manifests(saved):
    folder = saved[3]
    good = (folder / checkpoint.MANIFEST).read_bytes()
    resealed(folder, lambda m: m.update(format=99))
    with pytest.raises(CheckpointError, match="format 99 needs a newer irgrow"):
        checkpoint.read(folder)
    for change in (
        lambda m: m.update(files={}),
        lambda m: m.update(files=[]),
        lambda m: m["files"].update({"../outside": {"sha256": "", "size": 0}}),
        lambda m: m["files"].pop(checkpoint.RUN),
        lambda m: m.update(format="1"),
    ):
        (folder / checkpoint.MANIFEST).write_bytes(good)
        resealed(folder, change)
        with pytest.raises(CheckpointError):
            checkpoint.read(folder)
    for text in (b"", b"[]", b"{}", b"\xff\xfe", b"{" * 10000):
        (folder / checkpoint.MANIFEST).write_bytes(text)
        with pytest.raises(CheckpointError, match="damaged"):
            checkpoint.read(folder)


def rewritten(folder, name, data):
    """Exchange a file and its hash, so that only what it holds can be wrong."""
    import hashlib

    (folder / name).write_bytes(data)
    resealed(
        folder, lambda m: m["files"].update({name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}})
    )


def test_hostile_contents_are_one_error(saved):
    folder = saved[3]
    originals = {n: (folder / n).read_bytes() for n in checkpoint.FILES}
    for name, data in (
        (checkpoint.PROGRAM, b"net n(x: [1]) { return x |> repeat(1000000000) { relu } }"),
        (checkpoint.PROGRAM, b"\xff\xfe"),
        (checkpoint.PROGRAM, b"import std.resnet"),
        (checkpoint.MODEL, b"\xff" * 64),
        (checkpoint.MODEL, (1 << 63).to_bytes(8, "little") + b"{}"),
        (checkpoint.RUN, b"null"),
        (checkpoint.RUN, b"{"),
        (
            checkpoint.PROGRAM,
            originals[checkpoint.PROGRAM].replace(b"h = dense(flatten_1, 7)", b"h = dense(flatten_1, 8)"),
        ),
        (checkpoint.PROGRAM, originals[checkpoint.PROGRAM].replace(b"h = ", b"k = ").replace(b"(h)", b"(k)")),
    ):
        for other, text in originals.items():
            rewritten(folder, other, text)
        rewritten(folder, name, data)
        with pytest.raises(CheckpointError):
            checkpoint.load(folder)


def test_links_are_not_followed(saved, tmp_path):
    folder = saved[3]
    secret = tmp_path / "secret"
    shutil.move(folder / checkpoint.MODEL, secret)
    (folder / checkpoint.MODEL).symlink_to(secret)
    with pytest.raises(CheckpointError, match="a link"):
        checkpoint.read(folder)
    (folder / checkpoint.MODEL).unlink()
    os.link(secret, folder / checkpoint.MODEL)
    with pytest.raises(CheckpointError, match="a link"):
        checkpoint.read(folder)


def test_a_checkpoint_of_another_program(saved):
    folder = saved[3]
    net, _, _ = make(NET.replace("dense(5)", "dense(6)"))
    with pytest.raises(CheckpointError, match="of another program"):
        checkpoint.restore(net, checkpoint.read(folder))
    read = checkpoint.read(folder)
    untracked = checkpoint.network(read)
    with pytest.raises(CheckpointError, match="1 optimizers, the network tracks 0"):
        checkpoint.restore(untracked, read)
    untracked.track(torch.optim.SGD(untracked.parameters(), lr=1))
    with pytest.raises(CheckpointError, match="of a AdamW, the network tracks a SGD"):
        checkpoint.restore(untracked, read)


def test_nothing_there():
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        checkpoint.load("/nonexistent/folder")


def test_saving_replaces_a_checkpoint_and_nothing_else(saved, tmp_path):
    net, _, _, folder = saved
    checkpoint.save(net, folder)
    assert checkpoint.load(folder).graph == net.graph
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ck"]
    other = tmp_path / "precious"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="exists and is not a checkpoint"):
        checkpoint.save(net, other)
    assert (other / "thesis.txt").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ck", "precious"]


OPERATIONS = ["mkdir", "open", "fsync", "replace"]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("count", range(8))
def test_a_full_disk_at_any_point_leaves_the_old_checkpoint(saved, monkeypatch, operation, count):
    """Fault injection at every folder, file, flush and rename."""
    net, opt, scheduler, folder = saved
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    step(net, opt, scheduler, 9)
    calls = []

    def failing(real):
        def run(*args, **kwargs):
            if len(calls) == count:
                calls.append(1)
                raise OSError(28, "No space left on device")
            calls.append(1)
            return real(*args, **kwargs)

        return run

    holder = {"mkdir": Path, "open": Path, "fsync": os, "replace": os}[operation]
    monkeypatch.setattr(holder, operation, failing(getattr(holder, operation)))
    raised = None
    try:
        checkpoint.save(net, folder)
    except CheckpointError as error:
        raised = error
    if raised is not None:
        assert "no space left on device" in str(raised)
        monkeypatch.undo()
        found = checkpoint.load(folder)
        where = folder if folder.exists() else checkpoint._aside(folder)
        assert {p.name: p.read_bytes() for p in where.iterdir()} in (
            before,
            {p.name: p.read_bytes() for p in folder.iterdir()},
        )
        assert found.graph == net.graph
    else:
        assert len(calls) <= count, "an error was swallowed"


KILLED = """
import sys, torch
from irgrow import checkpoint
from irgrow.network import build
net = build(open(sys.argv[1]).read(), seed=1)
opt = torch.optim.AdamW(net.parameters(), lr=1e-2)
net.track(opt)
for i in range(100000):
    x = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(i))
    opt.zero_grad(); net(x).square().mean().backward(); opt.step()
    if i % 3 == 2:
        net.rewrite("grow_units(h, 1)")
    checkpoint.save(net, sys.argv[2], {"step": i})
    print(i, flush=True)
"""


@pytest.mark.slow
def test_kill_9_loses_nothing_announced(tmp_path):
    (tmp_path / "net.irg").write_text(NET)
    rng = random.Random(5)
    for attempt in range(8):
        folder = tmp_path / f"ck{attempt}"
        command = [sys.executable, "-c", KILLED, str(tmp_path / "net.irg"), str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        lines = [process.stdout.readline() for _ in range(rng.randint(2, 6))]
        time.sleep(rng.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        announced = int([line for line in lines if line.strip()][-1])
        found = checkpoint.read(folder)
        assert found.run["extra"]["step"] >= announced
        assert checkpoint.network(found).graph == found.graph
