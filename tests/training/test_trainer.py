"""The loop: what it computes, when it stops, what it keeps."""

import io
import math
import os
import signal
import threading

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn
from gpuprop.training import Display, Interrupted, PlainDisplay
from gpuprop.training.observer import Observer
from gpuprop.training.session import make_optimizer, make_schedule


def data(rows=40, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, 3)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] > 0).astype(np.int64)
    return x, y


def batches(rows=40, size=8):
    x, y = data(rows)
    return [(x[i : i + size], y[i : i + size]) for i in range(0, rows, size)]


def make(lr=0.05, seed=0, optimizer=None, **options):
    gp.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 2))
    criterion = nn.CrossEntropyLoss()
    loss = options.pop("loss", lambda batch: criterion(model(batch[0]), batch[1]))
    optimizer = optimizer or gp.optim.Adam(model.parameters(), lr=lr)
    return gp.Trainer(model, loss, optimizer, progress="off", **options)


def valid_loss(trainer_box):
    x, y = data(20, seed=1)
    return lambda: {"loss": nn.CrossEntropyLoss()(trainer_box[0].model(x), y).item()}


def weights(trainer):
    return {name: p.numpy().tobytes() for name, p in trainer.model.named_parameters()}


def test_training_learns_and_records_every_epoch():
    trainer = make()
    history = trainer.fit(batches(), epochs=15)
    assert history is trainer.history
    assert [r["epoch"] for r in history] == list(range(1, 16))
    assert [r["step"] for r in history] == [5 * e for e in range(1, 16)]
    assert history[-1]["train_loss"] < 0.6 * history[0]["train_loss"]
    assert set(history[0]) == {
        "epoch", "step", "train_loss", "lr", "seconds", "tokens_per_second", "device", "best",
    }  # fmt: skip
    assert history[0]["device"] == "cpu"


def run_once(seed):
    trainer = make(seed=seed)
    trainer.fit(batches(), epochs=2)
    return trainer


def test_the_same_seed_gives_the_same_bits():
    first, second, third = (run_once(seed) for seed in (3, 3, 4))
    assert weights(first) == weights(second)
    assert weights(first) != weights(third)
    assert [r["train_loss"] for r in first.history] == [r["train_loss"] for r in second.history]


def test_train_loss_is_the_mean_weighted_by_rows():
    losses = iter([1.0, 2.0, 4.0])
    trainer = make(
        loss=lambda batch: gp.tensor([0.0], requires_grad=True).sum() + next(losses),
        count=lambda b: len(b[0]),
    )
    x, y = data(10)
    trainer.fit([(x[:4], y[:4]), (x[4:8], y[4:8]), (x[8:], y[8:])], epochs=1)
    assert trainer.history[0]["train_loss"] == pytest.approx((4 * 1 + 4 * 2 + 2 * 4) / 10)


def test_the_best_weights_are_kept_and_restored():
    scores, kept = iter([0.5, 0.9, 0.7, 0.6]), []
    trainer = make(validate=lambda: {"accuracy": next(scores)}, watch="valid_accuracy")
    trainer.on_best = lambda record: kept.append((record["epoch"], weights(trainer)))
    trainer.fit(batches(), epochs=4)
    assert [epoch for epoch, _ in kept] == [1, 2]
    assert [r["best"] for r in trainer.history] == [True, True, False, False]
    assert trainer.best["epoch"] == 2
    assert weights(trainer) == kept[-1][1]
    assert not trainer.model.training


def test_ties_are_decided_by_the_next_thing_watched():
    losses = iter([0.7, 0.5, 0.6])
    trainer = make(
        validate=lambda: {"accuracy": 0.5, "loss": next(losses)}, watch=("valid_accuracy", "valid_loss")
    )
    trainer.fit(batches(), epochs=3)
    assert trainer.best["epoch"] == 2


def test_lower_is_better_for_losses_and_error_rates():
    for name in ("valid_loss", "valid_token_error_rate"):
        values = iter([0.5, 0.4, 0.6])
        trainer = make(validate=lambda n=name, v=values: {n.removeprefix("valid_"): next(v)}, watch=name)
        trainer.fit(batches(), epochs=3)
        assert trainer.best["epoch"] == 2


def test_early_stopping_waits_for_patience():
    scores = iter([0.5, 0.6, 0.6, 0.5, 0.9])
    trainer = make(validate=lambda: {"accuracy": next(scores)}, watch="valid_accuracy", patience=2)
    trainer.fit(batches(), epochs=5)
    assert len(trainer.history) == 4
    assert trainer.best["epoch"] == 2


def test_fit_goes_on_where_it_was():
    trainer = make()
    trainer.fit(batches(), epochs=1)
    trainer.fit(batches(), epochs=3)
    assert [r["epoch"] for r in trainer.history] == [1, 2, 3]
    assert trainer.history[-1]["step"] == 15


def test_a_loss_that_is_not_finite_stops_training_with_the_step_and_the_remedy():
    calls = []

    def loss(batch):
        calls.append(1)
        value = float("nan") if len(calls) == 8 else 1.0
        return gp.tensor([value], requires_grad=True).sum()

    saved = []
    trainer = make(loss=loss, on_best=saved.append)
    with pytest.raises(gp.TrainingError, match=r"loss is nan at step 8 \(epoch 2\).*Lower the learning rate"):
        trainer.fit(batches(), epochs=3)
    assert len(saved) == 1
    assert all(np.isfinite(p.numpy()).all() for p in trainer.model.parameters())


def test_a_validation_score_that_is_not_finite_stops_training():
    trainer = make(validate=lambda: {"loss": math.nan})
    with pytest.raises(gp.TrainingError, match="epoch 1 gives valid_loss nan"):
        trainer.fit(batches(), epochs=2)


def test_the_loss_is_read_in_bunches(monkeypatch):
    """A look at the loss waits for a GPU: 50 steps must not mean 50 separate looks."""
    reads, read = [], gp.training.trainer.LossMeter.read
    monkeypatch.setattr(gp.training.trainer.LossMeter, "read", lambda self: (reads.append(1), read(self))[1])
    make().fit(batches(rows=200, size=4), epochs=1)
    assert len(reads) == 6  # steps 1, 11, 21, 31, 41, and the end


def test_gradients_are_clipped():
    seen = []

    class Spy(gp.optim.SGD):
        def step(self):
            grads = [p.grad for group in self.param_groups for p in group["params"]]
            seen.append(math.sqrt(sum(float((g * g).sum()) for g in grads)))
            super().step()

    gp.manual_seed(0)
    model = nn.Linear(3, 2)
    criterion = nn.CrossEntropyLoss()
    optimizer = Spy(model.parameters(), lr=0.1)
    trainer = gp.Trainer(
        model, lambda b: criterion(model(b[0] * 100), b[1]), optimizer, clip_norm=0.5, progress="off"
    )
    trainer.fit(batches(), epochs=1)
    assert max(seen) <= 0.5 * (1 + 1e-5)
    assert max(seen) > 0.49


def test_schedules_step_once_a_step_and_plateau_once_a_validation():
    trainer = make(lr=0.1)
    trainer.schedule = gp.optim.StepLR(trainer.optimizer, step_size=5, gamma=0.5)
    trainer.fit(batches(), epochs=2)
    assert [r["lr"] for r in trainer.history] == pytest.approx([0.05, 0.025])
    trainer = make(lr=0.1, validate=lambda: {"accuracy": 0.5}, watch="valid_accuracy")
    trainer.schedule = gp.optim.ReduceLROnPlateau(trainer.optimizer, patience=0)
    trainer.fit(batches(), epochs=3)
    assert [p["lr"] for p in trainer.optimizer.param_groups] == pytest.approx([0.025])


def test_plateau_watches_a_score_that_rises():
    scores = iter([0.1, 0.2, 0.3])
    trainer = make(lr=0.1, validate=lambda: {"accuracy": next(scores)}, watch="valid_accuracy")
    trainer.schedule = gp.optim.ReduceLROnPlateau(trainer.optimizer, patience=0)
    trainer.fit(batches(), epochs=3)
    assert trainer.history[-1]["lr"] == pytest.approx(0.1)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_between_two_steps_and_keeps_the_best(number, code):
    steps, kept = [], []

    def loss(batch):
        steps.append(1)
        if len(steps) == 7:
            os.kill(os.getpid(), number)
            steps.append("the step went on")
        return criterion(trainer.model(batch[0]), batch[1])

    criterion = nn.CrossEntropyLoss()
    trainer = make(loss=loss)
    trainer.on_best = lambda record: kept.append((record["epoch"], weights(trainer)))
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as stop:
        trainer.fit(batches(), epochs=4)
    assert stop.value.exit_code == code
    assert isinstance(stop.value, KeyboardInterrupt)
    assert steps[-1] == "the step went on"
    assert trainer.state.step == 7
    assert [epoch for epoch, _ in kept] == [1]
    assert weights(trainer) == kept[0][1]
    assert signal.getsignal(number) == before


def test_ctrl_c_in_the_first_epoch_keeps_what_there_is():
    kept = []

    def loss(batch):
        if trainer.state.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return criterion(trainer.model(batch[0]), batch[1])

    criterion = nn.CrossEntropyLoss()
    trainer = make(loss=loss, on_best=kept.append)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(batches(), epochs=4)
    assert [record["step"] for record in kept] == [3]


def test_training_works_outside_the_main_thread():
    histories = []
    thread = threading.Thread(target=lambda: histories.append(make().fit(batches(), epochs=1)))
    thread.start()
    thread.join()
    assert len(histories[0]) == 1


def test_wrong_use_is_explained():
    with pytest.raises(gp.DataError, match="patience"):
        make(patience=0)
    with pytest.raises(gp.DataError, match="no batches"):
        make().fit([], epochs=1)
    with pytest.raises(gp.DataError, match="once an epoch"):
        make().fit(iter(batches()), epochs=1)
    with pytest.raises(gp.DataError, match="cannot watch 'valid_f1'"):
        make(watch="valid_f1").fit(batches(), epochs=1)
    with pytest.raises(gp.DataError, match="progress is one of"):
        gp.Trainer(nn.Linear(1, 1), lambda b: b, None, progress="loud")


def test_a_display_hears_every_step():
    heard = []

    class Ear(Display):
        def start(self, epochs, steps, device):
            heard.append(("start", epochs, steps))

        def step(self, number, loss, tokens):
            heard.append(("step", number))

        def finished(self, record):
            heard.append(("finished", record["epoch"]))

    trainer = make()
    trainer.display = Ear()
    trainer.fit(batches(), epochs=2)
    assert heard[0] == ("start", 2, 5)
    assert heard.count(("step", 5)) == 2
    assert heard[-1] == ("finished", 2)


def test_plain_lines_have_a_heading_and_a_row_an_epoch():
    stream = io.StringIO()
    trainer = make(validate=lambda: {"accuracy": 0.25, "macro_f1": 0.5}, watch="valid_accuracy")
    trainer.display = PlainDisplay(stream)
    trainer.fit(batches(), epochs=2)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0].split() == ["epoch", "train", "loss", "accuracy", "macro", "F1", "seconds"]
    assert lines[1].split()[0] == "1/2"
    assert lines[1].endswith("best")
    assert lines[1].index("0.2500") + len("0.2500") == lines[0].index("accuracy") + len("accuracy")


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop", "adagrad"])
def test_optimizers_by_name(name):
    model = nn.Linear(2, 1)
    optimizer = make_optimizer(name, model, 0.25, 0.5)
    assert type(optimizer).__name__.lower() == name
    assert optimizer.param_groups[0]["lr"] == 0.25
    assert optimizer.param_groups[0]["weight_decay"] == 0.5
    with pytest.raises(gp.DataError, match="unknown optimizer 'x'"):
        make_optimizer("x", model, 0.1, 0.0)


@pytest.mark.parametrize(
    ("name", "warmup", "expected"),
    [
        ("constant", 2, [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("step", 0, [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]),
        ("linear", 2, [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", 0, [0.5 * (1 + math.cos(math.pi * i / 6)) for i in range(6)]),
        (
            "inverse-sqrt",
            2,
            [0.5, 1.0, math.sqrt(2 / 3), math.sqrt(2 / 4), math.sqrt(2 / 5), math.sqrt(2 / 6)],
        ),
    ],
)
def test_schedules_by_name(name, warmup, expected):
    optimizer = gp.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    schedule = make_schedule(name, optimizer, epoch_steps=2, epochs=3, warmup_steps=warmup)
    rates = []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        schedule.step()
    assert rates == pytest.approx(expected)


def test_a_warm_up_longer_than_training_is_refused():
    optimizer = gp.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    with pytest.raises(gp.DataError, match="warm-up of 6 steps"):
        make_schedule("linear", optimizer, 2, 3, 6)


class Witness(Observer):
    """Writes down what it is told, and what the gradients are then."""

    def __init__(self):
        self.told, self.norms = [], []

    def before_step(self, model, step):
        self.model = model
        self.told.append(f"before {step}")

    def after_backward(self):
        self.told.append("backward")
        self.norms.append(math.sqrt(sum(float((p.grad**2).sum()) for p in self.model.parameters())))

    def after_step(self, norm):
        self.told.append("after")
        assert norm.item() == pytest.approx(self.norms[-1], rel=1e-5)
        assert math.sqrt(sum(float((p.grad**2).sum()) for p in self.model.parameters())) < 0.0101

    def finish(self):
        self.told.append("finish")


def test_observers_are_told_of_every_step_and_see_gradients_before_clipping():
    witness = Witness()
    make(clip_norm=0.01, observers=[witness]).fit(batches(rows=16), epochs=1)
    assert witness.told == [
        "before 1", "backward", "after", "before 2", "backward", "after", "finish",
    ]  # fmt: skip
    assert min(witness.norms) > 0.01


def test_observers_are_told_of_the_end_of_a_training_that_failed():
    witness = Witness()

    def loss(batch):
        raise RuntimeError("no loss today")

    with pytest.raises(RuntimeError, match="no loss today"):
        make(loss=loss, observers=[witness]).fit(batches(), epochs=1)
    assert witness.told == ["before 1", "finish"]
