"""Rate, batch and mix change during a run: planned, by rule, by hand; and a killed run agrees."""

import itertools
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from train_small import PatternRows, same_weights, small_model, small_trainer, weights_of

from langwright.base import UserError, read_json
from langwright.dataset import MixedRows, remix
from langwright.parallel import Alone
from langwright.train import MetricsLog, language_model_loss
from langwright.train.change_config import ChangeConfig
from langwright.train.changes import Changes, Rule
from langwright.train.timeline import Timeline

LENGTH = 16


def _changes(*planned, steps=100, rows=4, by_tokens=True, source=None, folder=None, parts=1):
    timeline = Timeline(source or PatternRows(), rows, steps, by_tokens=by_tokens, parts=parts)
    told = []
    configs = [ChangeConfig.parse(change) for change in planned]
    changes = Changes(configs, timeline, 1e-3, folder, Alone(None), told.append)
    return changes, timeline, told


def _rows_of(timeline, start=0):
    """Every row that the updates take, in order."""
    spans = [timeline.span(step) for step in range(start, timeline.total_steps)]
    return [row for _, first, count in spans for row in range(first, first + count)]


# -- the timeline ---------------------------------------------------------------------------------


def test_a_plain_run():
    _, timeline, _ = _changes()
    assert timeline.span(7)[1:] == (28, 4) and timeline.tokens(7) == 28 * LENGTH
    assert [timeline.place(step) for step in (0, 7, 99)] == [0, 7, 99]
    assert timeline.end(3) == timeline.total_steps == 100


def test_a_ramp_keeps_the_tokens_and_the_schedule():
    _, timeline, _ = _changes({"at": 0.25, "batch_factor": 2}, {"at": 0.5, "batch_tokens": 16 * 16})
    assert _rows_of(timeline) == list(range(412))
    sizes = [timeline.span(step)[2] for step in range(timeline.total_steps)]
    # Half is done at the first update after row 200; then 196 rows are left.
    assert sizes == [4] * 25 + [8] * 13 + [16] * 13
    assert timeline.place(timeline.total_steps) == pytest.approx(100.0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0.05, 0.95), st.sampled_from([0.5, 2.0, 3.0])), min_size=1, max_size=4
    ),
    st.booleans(),
)
def test_any_ramp_goes_through_data_and_schedule_in_order(stages, by_tokens):
    planned = [{"at": at, "batch_factor": factor} for at, factor in stages]
    changes, timeline, _ = _changes(*planned, rows=8, by_tokens=by_tokens)
    total = timeline.total_steps
    rows = _rows_of(timeline)
    assert rows == list(range(len(rows)))  # none left out, none twice
    places = [timeline.place(step) for step in range(total)]
    assert all(a < b for a, b in itertools.pairwise(places))
    assert places[-1] < 100 <= timeline.place(total) + 1e-6
    if by_tokens:
        biggest = max(timeline.span(step)[2] for step in range(total))
        assert 800 <= len(rows) < 800 + biggest
    else:
        assert total == 100
    for made in changes.effective:
        at = made.change.at
        assert timeline.share(made.step) >= at - 1e-9
        assert made.step == 0 or timeline.share(made.step - 1) < at
        assert timeline.step_at(at) == made.step


def test_rates_multiply_and_batches_divide_into_parts():
    _, timeline, _ = _changes(
        {"at_step": 10, "lr_factor": 0.5},
        {"at_step": 20, "lr": 2e-3, "batch_factor": 1.6},
        {"at_step": 20, "lr_factor": 0.1},
        parts=4,
        by_tokens=False,
    )
    assert [timeline.at(s).rate for s in (9, 10, 19)] == [1.0, 0.5, 0.5]
    assert timeline.at(20).rate == pytest.approx(0.2)
    assert timeline.span(20)[1:] == (80, 8) and timeline.total_steps == 100


def test_what_a_change_may_say():
    for table, message in [
        ({"at": 0.5}, "nothing to change"),
        ({"at": 0.5, "below": 2.0, "lr": 1.0}, "one time for a change"),
        ({"at": 0.5, "lr": 1.0, "lr_factor": 2.0}, "contradict"),
        ({"at": 0.5, "lr": 1.0, "times": 2}, "belongs to plateau"),
        ({"at": 1.5, "lr": 1.0}, "less than 1"),
    ]:
        with pytest.raises(UserError, match=message):
            ChangeConfig.parse(table)
    with pytest.raises(UserError, match="has no time"):
        _changes({"lr": 1.0})
    with pytest.raises(UserError, match="less than one row"):
        _changes({"plateau": 3, "batch_tokens": 8})
    with pytest.raises(UserError, match="one source only"):
        _changes({"below": 3.0, "mix": {"web": 1.0}})


# -- the mix --------------------------------------------------------------------------------------


def _mixed(**weights):
    names = ["web", "code", "books"]
    rows = [PatternRows(seed=i, epoch_rows=None) for i in range(3)]
    shares = [weights.get(name, 0.0) for name in names]
    return MixedRows(rows, shares, names=names, seed=1, block_rows=64)


def test_every_source_goes_on_where_it_stood():
    before = _mixed(web=3, code=1)
    after = remix(before, {"code": 1, "books": 1}, 100)
    again = remix(after, {"web": 1, "code": 1}, 230)
    indices = np.arange(300)
    seen = {name: [] for name in before.known}
    for rows, part in ((before, indices[:100]), (after, indices[100:230]), (again, indices[230:])):
        source, inner = rows.sources(part)
        for number, row in zip(source, inner):
            seen[rows.names[number]].append(int(row))
    for name, numbers in seen.items():
        assert sorted(numbers) == list(range(len(numbers))), name  # each row once, none left out
        assert again.drawn(300).get(name, 0) == len(numbers)
    assert len(seen["books"]) == pytest.approx(65, abs=2)
    whole = again.gather(indices)
    for rows, part in ((before, indices[:100]), (after, indices[100:230])):
        assert np.array_equal(whole.inputs[part], rows.gather(part).inputs)
    assert len({before.fingerprint, after.fingerprint, again.fingerprint}) == 3
    with pytest.raises(UserError, match="did you mean 'code'"):
        remix(before, {"cod": 1.0}, 10)


# -- rules ----------------------------------------------------------------------------------------


def test_a_plateau_and_a_threshold():
    rule = Rule(ChangeConfig(plateau=2, times=2, lr_factor=0.5))
    losses = [3.0, 2.0, 2.1, 1.9, 1.9, None, 1.8, 1.8, 1.8, 1.8, 1.8]
    assert [rule.fires(loss) for loss in losses] == [i in (5, 8) for i in range(len(losses))]
    rule = Rule(ChangeConfig(below=2.0, lr_factor=0.5))
    assert [rule.fires(loss) for loss in (3.0, 2.0, 1.9, 1.8)] == [False, False, True, False]


# -- whole runs -----------------------------------------------------------------------------------

VALID = {"held out": PatternRows(seed=1, epoch_rows=8)}
PLAN = [
    {"at": 0.25, "batch_factor": 2},
    {"at_step": 5, "lr_factor": 0.5, "mix": {"code": 1.0}},
    {"plateau": 1, "times": 3, "lr_factor": 0.9},
]
OPTIONS = {
    "steps": None,
    "tokens": 16 * 4 * LENGTH,
    "changes": PLAN,
    "evaluate_every": 1,
    "checkpoint_every": 2,
    "optimizer": {"weight_decay_schedule": "cosine"},
}


class Stop(Exception):
    pass


def test_a_run_that_is_killed_makes_the_same_changes(tmp_path):
    def run(folder, model, crash=None, **options):
        rows = _mixed(web=1, code=1)
        trainer = small_trainer(folder, model, rows, valid=VALID, **{**OPTIONS, **options})
        if crash is not None:
            housekeeping = trainer._housekeeping

            def stop(step):
                housekeeping(step)
                if step == crash:
                    raise Stop

            trainer._housekeeping = stop
        return trainer.run()

    whole = small_model()
    result = run(tmp_path / "whole", whole)
    cut = small_model()
    for crash in (3, 5, 7):
        with pytest.raises(Stop):
            run(tmp_path / "cut", small_model(), crash)
    again = run(tmp_path / "cut", cut)
    assert same_weights(weights_of(whole), weights_of(cut))
    assert result["steps"] == again["steps"] == 10  # 4 of 4 rows, then 6 of 8
    assert result["tokens"] == 16 * 4 * LENGTH
    records = {
        name: list(MetricsLog(tmp_path / name / "metrics.jsonl").read())
        for name in ("whole", "cut")
    }
    kept = ("step", "tokens", "change", "reason", "loss", "lr", "valid_loss")
    plain = {n: [{k: r[k] for k in kept if k in r} for r in rs] for n, rs in records.items()}
    assert plain["whole"] == plain["cut"]
    told = [(r["step"], r["change"]) for r in plain["whole"] if "change" in r]
    assert (4, {"batch_factor": 2.0}) in told
    assert (5, {"lr_factor": 0.5, "mix": {"code": 1.0}}) in told
    fixed = run(tmp_path / "none", small_model(), changes=[])
    assert fixed["steps"] == 16 and fixed["train_loss"] != result["train_loss"]


def test_the_rate_that_is_told_is_the_rate_that_is_used(tmp_path):
    trainer = small_trainer(
        tmp_path,
        changes=[{"at_step": 4, "lr": 1e-4}],
        schedule={"kind": "constant", "warmup_steps": 0},
    )
    used = []

    def objective(model, batch):
        used.append(trainer.setup.updater.optimizer.groups[0]["lr"])
        return language_model_loss(model, batch)

    trainer.objective = objective
    trainer.run()
    records = [r for r in MetricsLog(tmp_path / "metrics.jsonl").read() if "loss" in r]
    assert [r["lr"] for r in records] == pytest.approx([3e-3] * 4 + [1e-4] * 4)


def test_by_hand(tmp_path):
    def trainer(model, wish=None, when=3):
        made = small_trainer(tmp_path, model, checkpoint_every=2, keep_last=9)
        housekeeping = made._housekeeping

        def write(step):
            if step == when and wish is not None:
                (tmp_path / "change.toml").write_text(wish)
                made.setup.changes._asked = -1.0  # it looks twice a second
            housekeeping(step)

        made._housekeeping = write
        return made

    model = small_model()
    trainer(model, "lr_factor = 0.5\nbatch_factor = 2\n").run()
    assert not (tmp_path / "change.toml").exists()
    change = {"lr_factor": 0.5, "batch_factor": 2.0}
    assert read_json(tmp_path / "changes.json") == [{"step": 3, "change": change}]
    records = list(MetricsLog(tmp_path / "metrics.jsonl").read())
    told = next(r for r in records if "change" in r)
    assert told["step"] == 3 and told["change"] == change and told["reason"] == "by hand"
    updates = [r for r in records if "loss" in r]
    assert [r["tokens"] // LENGTH for r in updates] == [4, 8, 12, 20, 28, 36, 44, 52]

    # Killed before step 3 was saved: the change is made again at step 3, without the file.
    ended = weights_of(model)
    for path in (tmp_path / "checkpoints").iterdir():
        if path.name > "step-0000002":
            shutil.rmtree(path)
    model = small_model()
    trainer(model).run()
    assert same_weights(ended, weights_of(model))
    again = list(MetricsLog(tmp_path / "metrics.jsonl").read())
    assert [r.get("loss") for r in again] == [r.get("loss") for r in records]


def test_a_run_whose_changes_are_lost_does_not_go_on_elsewhere_in_the_data(tmp_path):
    """A change of batch by hand moves all later rows: without it they would be other ones."""

    def trainer():
        return small_trainer(tmp_path, checkpoint_every=2, keep_last=9)

    made = trainer()
    housekeeping = made._housekeeping

    def write(step):
        if step == 3:
            (tmp_path / "change.toml").write_text("batch_factor = 2")
            made.setup.changes._asked = -1.0
        housekeeping(step)

    made._housekeeping = write
    made.run()
    for path in (tmp_path / "checkpoints").iterdir():
        if path.name > "step-0000006":
            shutil.rmtree(path)
    kept = (tmp_path / "changes.json").read_text()
    (tmp_path / "changes.json").unlink()
    before = (tmp_path / "metrics.jsonl").read_text()
    with pytest.raises(UserError, match="another place than where the checkpoint") as error:
        trainer().run()
    assert error.value.found.startswith(f"{6 * 4 * LENGTH:,} tokens in 6 updates")
    assert error.value.expected == f"{(3 * 4 + 3 * 8) * LENGTH:,} tokens"
    assert (tmp_path / "metrics.jsonl").read_text() == before
    (tmp_path / "changes.json").write_text(kept)
    assert trainer().run()["resumes"] == 1


def test_a_wish_that_cannot_be_is_refused_and_the_run_goes_on(tmp_path):
    for text, reason in [
        ("lr_factor = ", "not TOML"),
        ("learning = 3", "unknown key"),
        ("at_step = 1\nlr = 0.1", "that step is over"),
        ("plateau = 2\nlr = 0.1", "follows no rule"),
        ("mix = { web = 1.0 }", "one source only"),
        ("batch_tokens = 3", "less than one row"),
    ]:
        (tmp_path / "change.toml").write_text(text)
        changes, _, told = _changes(folder=tmp_path)
        assert changes.asked(1e9) and not changes.asked(1e9 + 0.1)
        changes.look(5)
        assert len(told) == 1 and reason in told[0]
        assert not (tmp_path / "change.toml").exists() and not changes.effective
        assert (tmp_path / "change.refused.toml").read_text() == text
    assert not (tmp_path / "changes.json").exists()


def test_a_wish_for_later(tmp_path):
    changes, timeline, _ = _changes({"at": 0.5, "batch_factor": 2}, folder=tmp_path)
    assert [made.step for made in changes.effective] == [50]
    (tmp_path / "change.toml").write_text("at_step = 20\nbatch_factor = 2")
    changes.look(10)
    assert [(made.step, made.change.when) for made in changes.effective] == [
        (20, "by hand"),
        (35, "planned: at 50 % of the run"),  # 20 updates, then 15 twice as large
    ]
    assert timeline.span(19)[2] == 4 and timeline.span(20)[2] == 8 and timeline.span(35)[2] == 16
    other, again, _ = _changes({"at": 0.5, "batch_factor": 2}, folder=tmp_path)
    other.resume(0, [])
    assert [timeline.span(s)[1:] for s in range(48)] == [again.span(s)[1:] for s in range(48)]
