"""What goes wrong in a run, and runs in other precisions, with other losses and carry policies."""

import json

import numpy as np
import pytest
import torch
from small_runs import NET, NOISY, STEADY, VARIANTS, Act, Stop, differing, events, job, trained

from irgrow import checkpoint
from irgrow.errors import DataError, OptionError, UserError
from irgrow.training.folder import saved_steps
from irgrow.training.loop import Run

# what goes wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint(tmp_path, whole, value):
    def poison(run, report):
        if report.step == 7:
            with torch.no_grad():
                run.net.params["dense_1.bias"].fill_(value)

    with pytest.raises(DataError, match=r"the loss of step 8 is nan; the last checkpoint is kept"):
        trained(tmp_path, *VARIANTS["adam"], watcher=Act(poison))
    assert [p.name for p in saved_steps(tmp_path)] == ["step-00000005"]
    assert checkpoint.load(saved_steps(tmp_path)[-1]).graph.widths["h"] == 4
    run = Run.resume(tmp_path)
    assert run.report.step == 5
    run.run()
    assert differing(whole("adam"), tmp_path) == []


def npz(path, value=1.0, **arrays):
    """Write values that are a linear function of two inputs."""
    x = np.random.default_rng(0).normal(size=(40, 2))
    np.savez(path, x=x * value, y=(x @ [1.0, -2.0] + 0.5) * value, **arrays)
    return f'data = npz("{path}")  loss = mse  batch = 8  epochs = 3'  # 32 samples to train on: 4 steps an epoch


LINE = "net line(x: [2]) { return x |> h: dense(3) |> tanh |> dense(1) }"


def test_a_run_that_diverges_ends_with_the_step(tmp_path):
    options = npz(tmp_path / "d.npz", 100.0) + "  optimizer = sgd(lr = 1e6)"
    with pytest.raises(DataError, match=r"the loss of step \d+ is (inf|nan)") as caught:
        trained(tmp_path / "run", "net line(x: [2]) { return x |> dense(1) }", "", options, save_every=1)
    step = int(str(caught.value).split("step ")[1].split()[0])
    assert 2 < step < 12
    assert saved_steps(tmp_path / "run")[-1].name == f"step-{step - 1:08d}"
    checkpoint.load(saved_steps(tmp_path / "run")[-1])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["finished"], summary["steps"]) == (False, step - 1)


@pytest.mark.parametrize("name", ["tpu", "meta", "mps", "xpu", "", "cpu:x"])
def test_unknown_devices_are_refused(tmp_path, name):
    with pytest.raises(OptionError, match=f"`{name}`; use cpu or cuda"):
        Run(job(), tmp_path, device=name)


def test_cuda_is_refused_where_there_is_none(tmp_path, monkeypatch, whole):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for act in (lambda: Run(job(), tmp_path, device="cuda"), lambda: Run.resume(whole("adam"), device="cuda")):
        with pytest.raises(OptionError, match="the device cuda was asked for and none is available; use --device cpu"):
            act()


def test_data_that_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(DataError, match=r"the input `x` takes \[3\], spirals has \[2\]"):
        Run(job("net n(x: [3]) { return x |> dense(2) }", ""), tmp_path / "run")
    with pytest.raises(DataError, match="the output `dense_1` has 1 classes"):
        Run(job("net n(x: [2]) { return x |> dense(1) }", ""), tmp_path / "run")
    with pytest.raises(OptionError, match="matches no axis"):
        Run(job(growth=STEADY.replace("where = h", "where = hidden_layer")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_last_batch_of_one_sample_under_a_batch_norm_is_an_error_of_the_settings(tmp_path):
    with pytest.raises(UserError, match="batch"):
        trained(tmp_path / "a", NOISY, "", "data = spirals(24)  batch = 7  epochs = 1")  # 36 = 5 * 7 + 1
    assert trained(tmp_path / "b", NET, "", "data = spirals(24)  batch = 7  epochs = 1")[1]["steps"] == 6


# precision, regression, carrying -------------------------------------------------------------------------------------


def dtypes(run):
    state = run.optimizer.state[run.net.params["h.weight"]]
    return {t.dtype for t in (*run.net.parameters(), state["exp_avg"], state["exp_avg_sq"])}


def test_precision_is_that_of_weights_and_slots(tmp_path):
    runs = {p: trained(tmp_path / p, options=f"precision = {p}") for p in ("float32", "float64", "bf16")}
    assert dtypes(runs["float64"][0]) == {torch.float64}
    assert dtypes(runs["float32"][0]) == dtypes(runs["bf16"][0]) == {torch.float32}
    losses = {p: summary["test_loss"] for p, (_, summary) in runs.items()}
    assert losses["float64"] == pytest.approx(losses["float32"], rel=1e-4)  # 15 steps in single precision
    assert losses["float64"] != losses["float32"]
    assert losses["bf16"] == pytest.approx(losses["float32"], rel=0.05)  # bf16 has eight bits
    assert abs(losses["bf16"] - losses["float64"]) > abs(losses["float32"] - losses["float64"])
    assert all(summary["rewrites"] == 3 for _, summary in runs.values())


@pytest.mark.parametrize("precision", ["float32", "float64", "bf16"])
def test_values_are_learnt_from_a_file(tmp_path, precision):
    options = npz(tmp_path / "my data.npz").replace("epochs = 3", "epochs = 30")
    options += f"  optimizer = adam(lr = 0.03)  precision = {precision}"
    _, summary = trained(tmp_path / "run", LINE, STEADY.replace("every = 4", "every = epochs(10)"), options)
    losses = [row["test_loss"] for row in events(tmp_path / "run", "epoch")]
    assert losses[-1] < 0.3 * losses[0]
    assert summary["test_accuracy"] is None
    assert all(row["test_accuracy"] is None for row in events(tmp_path / "run", "epoch"))
    assert summary["test_loss"] == losses[-1]
    assert summary["rewrites"] == 3
    assert summary["data"] == f'npz("{tmp_path}/my data.npz")'


def test_a_regression_goes_on_bit_for_bit(tmp_path):
    options = npz(tmp_path / "d.npz")
    trained(tmp_path / "a", LINE, STEADY, options)
    assert trained(tmp_path / "b", LINE, STEADY, options, watcher=Stop(6))[1] is None
    Run.resume(tmp_path / "b").run()
    assert differing(tmp_path / "a", tmp_path / "b") == []
    assert [row["step"] for row in events(tmp_path / "b", "rewrite")] == [4, 8, 12]


@pytest.mark.parametrize("carry", ["siblings", "zero", "fresh"])
def test_new_units_start_their_slots_as_asked(tmp_path, carry):
    seen, watcher = {}, Stop(4)
    run = Run(job(options=f"carry = {carry}"), tmp_path, watcher=watcher)

    def look(receipt, step):
        state = run.optimizer.state.get(run.net.params["h.weight"], {})
        seen.update({k: v.clone() for k, v in state.items()})
        seen["untouched"] = run.optimizer.state[run.net.params["dense_1.weight"]]["exp_avg_sq"].clone()

    watcher.rewrite = look
    run.run()
    assert seen["untouched"].min() > 0
    if carry == "fresh":
        assert set(seen) == {"untouched"}
        return
    old, new = seen["exp_avg_sq"][:3], seen["exp_avg_sq"][3]
    assert old.min() > 0
    assert seen["exp_avg"][3].tolist() == [0, 0]
    torch.testing.assert_close(new, old.mean(0) if carry == "siblings" else torch.zeros(2), rtol=1e-6, atol=0)


def test_how_slots_are_carried_shows_in_the_result(tmp_path):
    """Negative control: the three ways are three runs."""
    losses = {c: trained(tmp_path / c, options=f"carry = {c}")[1]["test_loss"] for c in ("siblings", "zero", "fresh")}
    assert len(set(losses.values())) == 3


def test_initial_values_follow_the_setting(tmp_path):
    stock, xavier = (Run(job(options=f"init = {i}"), tmp_path) for i in ("default", "xavier_uniform"))
    assert stock.net.params["h.bias"].abs().min() > 0
    assert xavier.net.params["h.bias"].abs().max() == 0
    assert not torch.equal(stock.net.params["h.weight"], xavier.net.params["h.weight"])


def test_the_schedule_runs_over_the_whole_run(tmp_path):
    rates = []
    trained(
        tmp_path,
        options="schedule = cosine(floor = 0.1)  optimizer = adam(lr = 0.5)",
        watcher=Act(lambda run, report: rates.append(run.optimizer.param_groups[0]["lr"])),
    )
    wanted = [0.5 * (0.1 + 0.9 * (1 + np.cos(np.pi * i / 15)) / 2) for i in range(1, 16)]
    assert rates == pytest.approx(wanted, rel=1e-9)
