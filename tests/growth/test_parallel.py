"""Data-parallel growth with real processes: equal to one process, the same edit everywhere, divergence told to all."""

import pytest
import torch
from live import CNN, MLP
from parties import MASKED, PLAIN, TANH, Training
from processes import Processes
from scenarios import SALIENCIES, convolutions, scores, wide

from irgrow.errors import OptionError
from irgrow.growth import GrowthProgram
from irgrow.growth.agreement import digest, fingerprints
from irgrow.growth.parallel import DataParallel, ParallelController
from irgrow.network import build


@pytest.fixture(scope="module")
def processes():
    """Started when they are first needed, and again after a test that left them in pieces."""
    kept = []

    def fresh():
        if not kept:
            kept.append(Processes())
        return kept[0]

    def drop():
        while kept:
            kept.pop().stop()

    yield fresh, drop
    drop()


@pytest.fixture
def together(processes, tmp_path):
    fresh, drop = processes

    def run(call, size=2, within=60.0):
        try:
            return fresh().run(call, tmp_path, size, within)
        except BaseException:
            drop()
            raise

    return run


def near(one, two, within=1e-12):
    assert one.keys() == two.keys()
    for name in one:
        a, b = one[name].double(), two[name].double()
        assert a.shape == b.shape, name
        assert (a - b).abs().max() <= within * max(1.0, float(b.abs().max())), name


def same(one, two):
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


# equal to one process ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["random", "north_select", "pruning", "recorded", "deeper", "gradients", "gradmax", "nest", "firefly", "plateau"],
)
def test_two_processes_are_one_on_the_joined_batch(name, together):
    one, two = together(name)
    whole = (
        Training(name, text={"gradients": MASKED, "gradmax": TANH, "nest": PLAIN, "firefly": TANH}.get(name, MLP))
        .run()
        .found()
    )
    assert len(one["receipts"]) >= 2
    for key in ("program", "journal", "receipts", "rates", "used", "parameters"):
        assert one[key] == two[key] == whole[key], key
    same(one["params"], two["params"])
    same(one["slots"], two["slots"])
    if name in ("gradmax", "firefly", "recorded"):
        assert "records" in whole["used"], "and so they are of the pass that trains"
    near(one["params"], whole["params"])
    near(one["slots"], whole["slots"])


def test_saliencies_see_what_all_processes_recorded(together):
    one, two = together("scores")
    whole = scores(0, 1, None)
    for saliency in SALIENCIES:
        (wanted,), (found,) = whole[str(saliency)], one[str(saliency)]
        assert (found - wanted).abs().max() <= 1e-10 * wanted.abs().max(), saliency
        assert two[str(saliency)] == [], "only the first process is asked"
        for alone in (one[f"own {saliency}"], two[f"own {saliency}"]):
            apart = (alone - wanted).abs().max() / wanted.abs().max()
            assert apart > 0.01, f"negative control: by {saliency} one process alone says something else"


def test_where_one_process_has_nothing_to_say_yet_nothing_is_known(together):
    one, two = together("one_without_gradients")
    for seen, alone in one[:2]:
        assert seen == [None]
        assert alone is not None, "negative control: the first would have something to say"
    assert [alone is None for _, alone in two] == [True, True, False]
    assert one[2][0][0] is not None, "activity takes no backward pass"


def test_three_processes_are_one_as_well(together):
    found = together("north_select", 3)
    whole = Training("north_select", size=3).run().found()
    for each in found:
        assert each["program"] == whole["program"]
        near(each["params"], whole["params"])
        near(each["slots"], whole["slots"])


def test_growth_is_what_makes_the_difference(together):
    """The comparison is not vacuous: without growth the same training ends elsewhere."""
    one, _ = together("ungrown")
    whole = Training("random").run().found()
    assert one["params"]["a.weight"].shape != whole["params"]["a.weight"].shape
    assert (one["params"]["head.bias"] - whole["params"]["head.bias"]).abs().max() > 1e-6


@pytest.mark.parametrize("name", ["watched", "last", "bridged"])
def test_triggers_see_what_all_processes_recorded(name, together):
    one, two = together(name)
    assert one["receipts"]
    for key in ("program", "journal", "receipts"):
        assert one[key] == two[key]
    same(one["params"], two["params"])
    same(one["slots"], two["slots"])


@pytest.mark.parametrize(("call", "norm"), [(convolutions, "batchnorm_1"), (wide, "bn")])
def test_statistics_of_new_norm_units_are_those_of_the_whole_batch(call, norm, together):
    one, two = together(call.__name__)
    whole = call(0, 1, None)
    assert one["used"] == whole["used"] == ["statistics"]
    assert one["notes"] == two["notes"] == whole["notes"] == []
    for kind in ("params", "averages"):
        same(one[kind], two[kind])
        near(one[kind], whole[kind])
    assert one["params"][f"{norm}.running_mean"][-2:].abs().min() > 0, "they were measured"


def test_one_wrapper_kept_across_a_rewrite_does_not_train(together):
    assert all("Expected to have finished reduction" in said for said in together("without_the_wrapper"))


# divergence ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plant", "why"),
    [
        ("values", "the values of parameters or buffers"),
        ("rates", "the groups, options or state of the optimizers"),
        ("slots", "the groups, options or state of the optimizers"),
        ("order", "the groups, options or state of the optimizers"),
        ("count", "the processes are not at the same step"),
    ],
)
def test_a_planted_divergence_is_raised_by_every_process(plant, why, together):
    found = together(f"diverged_{plant}")
    assert found[0]["error"] == found[1]["error"]
    assert found[0]["error"].startswith("ParallelError: ")
    assert why in found[0]["error"]
    assert "nothing was changed" in found[0]["error"]
    assert all(f["seconds"] < 10 and f["kept"] and f["width"] == 8 for f in found)


def test_another_width_on_one_process_is_raised_by_every_process(together):
    """The next training pass meets it: one would wrap the network anew and wait for ever, the other would not."""
    found = together("diverged_width")
    assert found[0]["error"] == found[1]["error"]
    assert "the processes have different programs, after 0, 1 rewrites" in found[0]["error"]
    assert all(f["seconds"] < 10 for f in found)
    assert [f["width"] for f in found] == [8, 9]


def test_what_fails_on_one_process_is_raised_by_every_process(together):
    found = together("pending")
    assert found[0]["error"] == found[1]["error"]
    assert "process 1 failed with RefusedError: a forward pass was recorded" in found[0]["error"]
    assert all(f["seconds"] < 10 and f["kept"] and f["width"] == 8 for f in found)


@pytest.mark.parametrize("name", ["own_seed", "own_trigger", "nothing_planted"])
def test_no_process_but_the_first_decides_anything(name, together):
    found = together(name)
    assert [f["error"] for f in found] == ["", ""]
    assert [f["width"] for f in found] == [10, 10]


def test_a_process_that_does_not_ask_is_noticed(together):
    found = together("one_never_asks")
    assert "the processes have lost each other" in found[0]["error"]
    assert "for 3 seconds" in found[0]["error"]
    assert 2 < found[0]["seconds"] < 10


# errors --------------------------------------------------------------------------------------------------------------


def test_what_a_trigger_raises_is_raised_everywhere_and_training_goes_on(together):
    found = together("trigger_fails")
    assert found[0] == found[1] == [[3, "nothing can be said about `a`"], [6, "nothing can be said about `a`"]]


def test_a_loss_that_is_not_finite_on_one_process_is_raised_everywhere(together):
    found = together("loss_is_not_finite")
    assert found[0] == found[1] == ["the loss of step 4 is nan; nothing was grown"]


def test_a_criterion_that_fails_on_one_process_is_raised_everywhere(together):
    assert together("criterion_fails") == ["process 1: ValueError: no labels here"] * 2


def test_what_only_one_process_was_given_is_raised_everywhere(together):
    assert together("loss_on_one_only") == ["step 4: the processes are not all given a loss; nothing was changed"] * 2


def test_growth_programs_must_be_the_same(together):
    one, two = together("other_programs")
    assert one == two
    assert one.startswith("at the start: the processes differ in the program")


def test_there_must_be_a_process_group():
    net = build(MLP)
    with pytest.raises(OptionError, match="init_process_group"):
        DataParallel(net)
    with pytest.raises(OptionError, match="init_process_group"):
        ParallelController(net, GrowthProgram(()))


# saving --------------------------------------------------------------------------------------------------------------


def test_a_training_of_several_is_taken_up_again(together):
    found = together("saved")
    same(found[0]["tensors"], found[1]["tensors"])
    assert {k.partition("/")[0] for k in found[0]["tensors"]} == {"0", "1"}
    for each in found:
        same(each["whole"]["params"], each["resumed"]["params"])
        same(each["whole"]["slots"], each["resumed"]["slots"])
        assert each["whole"]["journal"] == each["resumed"]["journal"]


# fingerprints --------------------------------------------------------------------------------------------------------


def test_fingerprints_have_32_bytes_and_say_what_changed():
    run = Training("random").run(2)
    touched = ("a.weight",)
    before = fingerprints(run.net, touched)
    assert len(digest(before)) == 32
    assert fingerprints(run.net, touched) == before

    def changed():
        after = fingerprints(run.net, touched)
        assert digest(after) != digest(before)
        return {part for part in before if after[part] != before[part]}

    state = run.optimizer.state[run.net.params["a.weight"]]
    state["exp_avg"][0, 0] += 1e-15
    assert changed() == {"optimizers"}
    before = fingerprints(run.net, touched)
    with torch.no_grad():
        run.net.params["head.bias"][0] += 1e-15
    assert changed() == {"values"}
    before = fingerprints(run.net, touched)
    run.net.params["head.bias"].requires_grad_(False)
    assert changed() == {"shapes"}
    before = fingerprints(run.net, touched)
    run.net.rewrite("grow_units(a, 1)")
    assert {"program", "shapes", "values", "optimizers"} <= changed()


def test_fingerprints_of_any_precision():
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        net = build(CNN, seed=1, dtype=dtype)
        assert len(digest(fingerprints(net))) == 32
