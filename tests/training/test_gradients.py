"""What is recorded of each layer while it trains: the numbers, when, and how they reach the run folder."""

import json
import math

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn
from gpuprop.backprop import recording
from gpuprop.errors import CheckpointError
from gpuprop.training.gradients import (
    GRADIENTS,
    GradientLog,
    GradientRecorder,
    interval_at,
    read_gradients,
)

X = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)


class Kept(list):
    """A log in memory."""

    def start(self, step):
        self.first = step

    def flush(self):
        self.flushed = True


def model():
    gp.manual_seed(0)
    layers = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    layers[0].bias.data[...] = (0, -100, 0, -100)  # two units never give anything but 0
    return layers


def train(interval=1, steps=3, m=None, **options):
    m, log = m or model(), Kept()
    criterion = nn.CrossEntropyLoss()
    recorder = GradientRecorder(log, interval, options.get("clip_norm"))
    optimizer = gp.optim.SGD(m.parameters(), lr=0.1)
    trainer = gp.Trainer(
        m, lambda b: criterion(m(b[0]), b[1]), optimizer, progress="off", observers=[recorder], **options
    )
    trainer.fit([(X, Y)] * steps, epochs=1)
    return log


def norm(*arrays):
    return math.sqrt(sum(float((a.astype(np.float64) ** 2).sum()) for a in arrays))


def test_a_record_holds_what_the_step_did_to_each_layer():
    m = model()
    hidden = m[0](gp.tensor(X))
    logits = m[2](hidden.relu())
    probabilities = logits.softmax().numpy()
    dlogits = (probabilities - np.eye(2)[Y]) / len(Y)
    nn.CrossEntropyLoss()(logits, Y).backward()
    grads = {name: p.grad.copy() for name, p in m.named_parameters()}
    weights = {name: p.numpy().copy() for name, p in m.named_parameters()}

    record = train()[0]
    first, last = record["layers"]["0"], record["layers"]["2"]
    assert set(record["layers"]) == {"0", "2"}
    assert record["step"] == 1
    assert first["activation"] == pytest.approx(norm(hidden.data) / math.sqrt(8 * 4), rel=1e-4)
    assert last["activation"] == pytest.approx(norm(logits.data) / math.sqrt(8 * 2), rel=1e-4)
    assert last["flow"] == pytest.approx(norm(dlogits), rel=1e-4)
    dhidden = (dlogits @ m[2].weight.numpy()) * (hidden.data > 0)
    assert first["flow"] == pytest.approx(norm(dhidden), rel=1e-4)
    for layer, of in record["layers"].items():
        own = [f"{layer}.weight", f"{layer}.bias"]
        assert of["gradient"] == pytest.approx(norm(*(grads[n] for n in own)), rel=1e-4)
        assert of["update"] == pytest.approx(0.1 * of["gradient"], rel=1e-3)
        stepped = [weights[n] - 0.1 * grads[n] for n in own]
        assert of["weight"] == pytest.approx(norm(*stepped), rel=1e-4)
    assert record["gradient"] == pytest.approx(norm(*grads.values()), rel=1e-4)
    assert first["dead"] == 0.5
    assert "dead" not in last
    assert "clipped" not in record
    assert record["graph"] == [["0", "2"], ["2", "loss"]]


def test_the_share_of_clipped_steps_is_that_since_the_record_before():
    free = [record["gradient"] for record in train(steps=4)]
    log = train(interval=2, steps=4, clip_norm=float(np.mean(free[:2])))
    assert [record["step"] for record in log] == [1, 3]
    assert log[0]["gradient"] == pytest.approx(free[0])  # before clipping
    assert log[0]["clipped"] == 1.0
    assert [r["clipped"] for r in train(steps=2, clip_norm=100.0)] == [0.0, 0.0]


def test_training_is_the_same_with_and_without():
    with_records, without = model(), model()
    train(m=with_records, steps=4)
    log = train(m=without, interval=100, steps=4)
    assert len(log) == 1
    for a, b in zip(with_records.parameters(), without.parameters(), strict=True):
        assert a.numpy().tobytes() == b.numpy().tobytes()


@pytest.mark.parametrize("options", [{"precision": "fp16"}, {"accumulate": 2}])
def test_flow_is_that_of_a_loss_without_scale(options):
    plain, other = train(steps=4)[0], train(steps=4, **options)[0]
    for layer in ("0", "2"):
        assert other["layers"][layer]["flow"] == pytest.approx(plain["layers"][layer]["flow"], rel=0.01)
        assert other["layers"][layer]["gradient"] == pytest.approx(
            plain["layers"][layer]["gradient"], rel=0.01
        )


def test_layers_side_by_side_share_the_columns():
    gp.manual_seed(0)
    m = gp.models.TextCNN(20, 2, embedding_dim=8, widths=(2, 3), filters=4)
    m.convolutions[1].bias.data[...] = -100.0
    log, criterion = Kept(), nn.CrossEntropyLoss()
    ids = np.random.default_rng(0).integers(1, 20, (6, 5))
    trainer = gp.Trainer(
        m, lambda b: criterion(m(b), np.arange(6) % 2), gp.optim.SGD(m.parameters(), lr=0.1),
        progress="off", observers=[GradientRecorder(log, 1)],
    )  # fmt: skip
    trainer.fit([ids], epochs=1)
    layers = log[0]["layers"]
    assert list(layers) == ["embedding", "convolutions.0", "convolutions.1", "output"]
    assert layers["convolutions.0"]["dead"] == 0.0
    assert layers["convolutions.1"]["dead"] == 1.0
    assert layers["convolutions.1"]["activation"] == 0.0
    assert layers["convolutions.1"]["gradient"] == 0.0
    assert layers["convolutions.0"]["gradient"] > 0.0


def test_the_graph_leads_from_the_embeddings_to_the_loss_and_never_back():
    gp.manual_seed(0)
    m = gp.models.Seq2Seq(20, 20, embedding_dim=8, hidden_size=8, input_feeding=True)
    ids, criterion, log = np.random.default_rng(0).integers(4, 20, (3, 4)), nn.CrossEntropyLoss(), Kept()
    trainer = gp.Trainer(
        m, lambda b: criterion(m(b, None, b), b), gp.optim.SGD(m.parameters(), lr=0.1),
        progress="off", observers=[GradientRecorder(log, 1)],
    )  # fmt: skip
    trainer.fit([ids, ids], epochs=1)
    assert ["graph" in record for record in log] == [True, False]
    edges = {tuple(edge) for edge in log[0]["graph"]}
    for edge in (
        ("encoder.embedding", "encoder.cell"), ("encoder.cell", "bridge.layers.0"),
        ("decoder.embedding", "decoder.cell"), ("decoder.cell", "decoder.combine"),
        ("decoder.combine", "decoder.output"), ("decoder.output", "loss"),
    ):  # fmt: skip
        assert edge in edges
    assert ("decoder.combine", "decoder.cell") not in edges  # it does, but in the next time step


def test_frozen_layers_have_no_gradient():
    m = model()
    for p in m[0].parameters():
        p.requires_grad = False
    log, criterion = Kept(), nn.CrossEntropyLoss()
    optimizer = gp.optim.SGD(m[2].parameters(), lr=0.1)
    gp.Trainer(
        m, lambda b: criterion(m(b), Y), optimizer, progress="off", observers=[GradientRecorder(log, 1)]
    ).fit([X], epochs=1)
    assert "gradient" not in log[0]["layers"].get("0", {})
    assert log[0]["layers"]["2"]["gradient"] > 0


def test_a_step_that_fails_leaves_nobody_watching():
    m, log = model(), Kept()

    def loss(batch):
        m(X)
        raise RuntimeError("no loss today")

    trainer = gp.Trainer(
        m, loss, gp.optim.SGD(m.parameters(), lr=0.1), progress="off", observers=[GradientRecorder(log, 1)]
    )
    with pytest.raises(RuntimeError, match="no loss today"):
        trainer.fit([X], epochs=1)
    assert recording() is True
    assert log == []
    assert log.flushed


def test_values_that_are_not_finite_are_null():
    m = model()
    m[2].weight.data[...] = 3e38
    log = Kept()
    trainer = gp.Trainer(
        m, lambda b: m(b).sum(), gp.optim.SGD(m.parameters(), lr=0.1), progress="off",
        observers=[GradientRecorder(log, 1)],
    )  # fmt: skip
    with pytest.raises(gp.TrainingError, match="diverged"):
        trainer.fit([X], epochs=1)
    assert json.loads(json.dumps(log[0], allow_nan=False))["layers"]["2"]["activation"] is None


def test_records_wait_for_the_folder_and_are_appended(tmp_path):
    ready = []
    log = GradientLog(tmp_path, lambda: bool(ready))
    log.start(1)
    log.append({"step": 1})
    assert read_gradients(tmp_path) == []
    ready.append(True)
    log.append({"step": 26})
    assert read_gradients(tmp_path) == [{"step": 1}, {"step": 26}]
    log.append({"step": 51})
    assert read_gradients(tmp_path)[-1] == {"step": 51}


def test_going_on_forgets_the_records_of_steps_that_are_done_again(tmp_path):
    file = tmp_path / GRADIENTS
    file.write_text('{"step": 1}\n{"step": 26}\n{"step": 51}\n{"ste')
    log = GradientLog(tmp_path, lambda: True)
    log.start(40)
    assert file.read_text() == '{"step": 1}\n{"step": 26}\n'


@pytest.mark.parametrize("from_the_start", [True, False])
def test_a_file_that_cannot_be_written_is_warned_of_once(tmp_path, from_the_start):
    folder, told = tmp_path / "run", []
    log = GradientLog(folder, lambda: True, told.append)
    if not from_the_start:
        folder.mkdir()
    log.start(1)
    if not from_the_start:
        folder.rename(tmp_path / "moved")
    for step in (1, 26, 51):
        log.append({"step": step})
    log.flush()
    (text,) = told
    assert "gradients.jsonl: could not be saved: " in text
    assert text.endswith("training goes on, and gradients.jsonl is tried again with the next record")
    folder.mkdir(exist_ok=True)
    log.append({"step": 76})
    assert [record["step"] for record in read_gradients(folder)] == [1, 26, 51, 76]


def test_a_line_cut_off_by_a_full_disk_is_written_again(tmp_path, monkeypatch):
    log, told = GradientLog(tmp_path, lambda: True, lambda text: told.append(text)), []
    log.append({"step": 1})

    def full(path, line, sync):
        path.write_text('{"step": 1}\n{"st')
        raise gp.TrainingError(f"{path}: could not be saved")

    with monkeypatch.context() as broken:
        broken.setattr("gpuprop.training.gradients.append_line", full)
        log.append({"step": 26})
    log.append({"step": 51})
    assert len(told) == 1
    assert [record["step"] for record in read_gradients(tmp_path)] == [1, 26, 51]


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / GRADIENTS).write_text('{"step": 1\n{"step": 2}\n')
    with pytest.raises(CheckpointError, match=r"gradients\.jsonl: damaged.*delete it"):
        read_gradients(tmp_path)


def test_intervals_keep_records_few_and_steps_cheap():
    recorded = np.cumsum([(step - 1) % interval_at(step) == 0 for step in range(1, 200_001)])
    assert recorded[:11].tolist() == [1, 2, 3, 4, 5, 6, 6, 6, 6, 6, 7]
    assert recorded[29] == 10  # a short training is seen too
    for steps, share in ((1000, 0.05), (2000, 0.035), (10_000, 0.012), (200_000, 0.001)):
        assert recorded[steps - 1] < share * steps
        assert recorded[steps - 1] - recorded[steps // 2 - 1] >= 15  # enough to see the second half


def test_records_wait_in_a_checkpoint_for_a_folder_that_is_not_begun(tmp_path):
    """Killed after the first checkpoint and before the next record, which would have written them."""
    before = GradientRecorder(GradientLog(tmp_path, lambda: False))
    before.log.append({"step": 1})
    before.log.append({"step": 11})
    after = GradientRecorder(GradientLog(tmp_path, lambda: True))
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    after.log.start(12)
    assert read_gradients(tmp_path) == [{"step": 1}, {"step": 11}]
    after.load_state_dict(before.state_dict())  # a second stop, before another checkpoint
    after.log.start(12)
    assert read_gradients(tmp_path) == [{"step": 1}, {"step": 11}]


@pytest.mark.parametrize(
    "change",
    [{"counted": -1}, {"above": 5}, {"above": 1.0}, {"waiting": [3]}, {"graph_known": 1}, {"more": 1}],
)
def test_a_state_that_no_recorder_gave_is_refused(change):
    recorder = GradientRecorder(Kept())
    recorder.log.waiting = []
    state = recorder.state_dict()
    with pytest.raises(CheckpointError, match=r"the state of gradients\.jsonl"):
        recorder.load_state_dict({**state, **change})
    with pytest.raises(CheckpointError, match=r"the state of gradients\.jsonl"):
        recorder.load_state_dict(None)


CLIP = 0.23  # between the norms of the steps below


def test_a_training_that_goes_on_has_the_records_of_one_that_never_stopped(tmp_path):
    def trainer(folder):
        folder.mkdir(exist_ok=True)
        m, criterion = model(), nn.CrossEntropyLoss()
        recorder = GradientRecorder(GradientLog(folder, lambda: True), 3, CLIP)
        optimizer = gp.optim.Adam(m.parameters(), lr=0.1)
        return gp.Trainer(
            m, lambda b: criterion(m(b[0]), b[1]), optimizer,
            progress="off", observers=[recorder], clip_norm=CLIP,
        )  # fmt: skip

    batches, states = [(X, Y), (-X, Y)], []
    whole = trainer(tmp_path / "whole")
    whole.on_epoch = lambda record: states.append(whole.state_dict())
    whole.fit(batches, epochs=5)
    trainer(tmp_path / "stopped").fit(batches, epochs=4)
    going_on = trainer(tmp_path / "stopped")
    going_on.load_state_dict(states[1])  # the stop lost two epochs, whose records are there
    going_on.fit(batches, epochs=5)
    assert [record["step"] for record in read_gradients(tmp_path / "stopped")] == [1, 4, 7, 10]
    assert 0 < read_gradients(tmp_path / "whole")[1]["clipped"] < 1
    expected = (tmp_path / "whole" / GRADIENTS).read_bytes()
    assert (tmp_path / "stopped" / GRADIENTS).read_bytes() == expected
