"""A value that is not finite stops training soon, is traced to its operation, and can be computed again."""

import warnings

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn, ops
from gpuprop.models import FeedForwardClassifier
from gpuprop.training import Classification, divergence, guard, load_failure
from gpuprop.training.locate import Finder
from gpuprop.training.observer import Observer
from gpuprop.training.session import make_optimizer

from .test_accumulation import CASES, field


class Nan(gp.Op):
    """y = x, with a NaN in it"""

    @staticmethod
    def forward(ctx, x):
        y = x.copy()
        y[0] = np.nan
        return y

    @staticmethod
    def backward(ctx, dy):
        return dy


class InfiniteSlope(gp.Op):
    """y = x        dx is infinite"""

    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, dy):
        return dy * np.float32(np.inf)


WRONG = {
    "Nan": Nan.apply,
    "InfiniteSlope": InfiniteSlope.apply,
    "Log": lambda x: ops.log(x * 0.0),
    "Divide": lambda x: x / (x - x),
    "Exp": lambda x: ops.exp(x * 0.0 + 1000.0),
    "Sqrt": lambda x: ops.sqrt(x * 0.0) + x,  # its value is 0, its slope infinite
}


class Trap(nn.Module):
    """Passes x on, until it is sprung."""

    def __init__(self, op):
        self.op, self.sprung = op, False

    def forward(self, x):
        return WRONG[self.op](x) if self.sprung else x


class Net(nn.Module):
    def __init__(self, op):
        self.first = nn.Linear(3, 8)
        self.drop = nn.Dropout(0.3)
        self.traps = nn.ModuleList([Trap(op), Trap(op)])
        self.last = nn.Linear(8, 2)

    def forward(self, x):
        x = self.traps[0](self.first(x).tanh())
        return self.last(self.traps[1](self.drop(x)))


def data(rows=8, batches=40):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batches, rows, 3)).astype(np.float32)
    return [(part, (part[:, 0] > 0).astype(np.int64)) for part in x]


class Spring(Observer):
    """Springs a trap at one step, and keeps the weights before it."""

    def __init__(self, step, spring):
        self.at, self.spring, self.weights = step, spring, None

    def before_step(self, model, step):
        if step == self.at:
            self.weights = model.state_dict()
            self.spring(model)


def train(net, observer=None, epochs=1, batches=None, **options):
    gp.manual_seed(3)
    criterion = nn.CrossEntropyLoss()
    trainer = gp.Trainer(
        net,
        lambda batch: criterion(net(gp.tensor(batch[0])), batch[1]),
        options.pop("optimizer", None) or gp.optim.Adam(net.parameters(), lr=0.01),
        observers=[] if observer is None else [observer],
        **{"progress": "off", "count": lambda batch: len(batch[0]), **options},
    )
    trainer.fit(data() if batches is None else batches, epochs)
    return trainer


@pytest.mark.parametrize(
    ("op", "place", "step"),
    [*((op, place, 7 + 11 * place) for op in WRONG for place in (0, 1)), ("Nan", 0, 1), ("Log", 1, 2),
     ("Sqrt", 0, 11), ("Exp", 1, 40)],
)  # fmt: skip
def test_the_operation_and_the_layer_are_named_and_the_step_is_kept(op, place, step, tmp_path):
    net = Net(op)
    spring = Spring(step, lambda model: setattr(model.traps[place], "sprung", True))
    last = []
    spring.after_step = lambda norm: last.append(net.state_dict())
    with pytest.raises(gp.TrainingError) as stop:
        train(net, spring, run_folder=tmp_path)
    message = str(stop.value)
    what = "gradients are not finite" if op in ("InfiniteSlope", "Sqrt") else "the loss is"
    assert message.startswith(what)
    assert f"at step {step} (epoch 1)" in message
    assert "Lower the learning rate (now 0.01) or clip gradients" in message
    assert f"{op} " in message or f"{op}," in message
    assert f"layer traps.{place}" in message
    assert str(tmp_path / "failure") in message
    assert len(last) - step < 10
    failure = load_failure(tmp_path)
    for name, weights in spring.weights.items():
        np.testing.assert_array_equal(failure.weights[name], weights)
        np.testing.assert_array_equal(last[-1][name], weights)
    assert (failure.record["operation"], failure.record["layer"]) == (op, f"traps.{place}")
    np.testing.assert_array_equal(failure.batches[0][0], data()[step - 1][0])


def test_the_step_is_computed_again_with_its_dropout(tmp_path):
    """What fails only under the masks of one step fails again, later and in another process's state."""

    class Touchy(Net):
        def forward(self, x):
            h = self.drop(self.first(x).tanh() * 0.01 + 1.0)
            self.masks.append(h.data.copy())
            return self.last(WRONG["Nan"](h) if len(self.masks) == 15 or self.again else h)

    net = Touchy("Nan")
    net.masks, net.again = [], False
    net_loss = lambda batch: nn.CrossEntropyLoss()(net(batch[0]), batch[1])  # noqa: E731
    with pytest.raises(gp.TrainingError, match="nothing: the batch, computed once more"):
        train(net, run_folder=tmp_path)  # the trap does not spring twice
    failed, again = net.masks[14], net.masks[-1]
    np.testing.assert_array_equal(again, failed)
    gp.manual_seed(99)
    net.again = True
    found = load_failure(tmp_path).replay(net, net_loss)
    np.testing.assert_array_equal(net.masks[-1], failed)
    assert (found.operation, found.layer) == ("Nan", "Touchy")
    assert gp.backend.random.state.seed == 99
    assert "forward" not in vars(net)


@pytest.mark.parametrize("case", ["cnn", "feedforward", "seq2seq"])
def test_texts_and_their_parameters(case, tmp_path):
    """Batches of texts are written and read, over several batches a step; a NaN in a weight is named."""
    make, cut = CASES[case]
    task = make()
    name, weight = list(task.model.named_parameters())[2]

    class Break(Observer):
        def before_step(self, model, step):
            if step == 2:
                weight.data.flat[0] = np.inf

    optimizer = gp.optim.SGD(task.model.parameters(), lr=0.01)
    trainer = gp.Trainer(
        task.model, task.loss, optimizer, count=task.count, accumulate=3, observers=[Break()],
        run_folder=tmp_path, progress="off",
    )  # fmt: skip
    batches = cut()[1:]
    with pytest.raises(gp.TrainingError, match=f"Not finite first: the parameter {name}, before the step"):
        trainer.fit([*batches, *batches], epochs=1)
    failure = load_failure(tmp_path)
    assert [type(b) for b in failure.batches] == [type(b) for b in batches]
    for ours, theirs in zip(failure.batches, batches, strict=True):
        for part in ("index", "target_out" if case == "seq2seq" else "ids"):
            np.testing.assert_array_equal(getattr(ours, part), getattr(theirs, part))
    assert failure.replay(task.model, task.loss, task.count).layer == name.rpartition(".")[0]


@pytest.mark.parametrize("case", ["cnn", "seq2seq", "transformer", "conv"])
def test_a_failure_names_the_layers_that_explain_names(case):
    """Also for operations that a model calls with the weights of its layers, as filters of several widths."""
    make, cut = CASES[case]
    task, batch = make(), cut()[0]
    task.model.eval()
    rows = {(row.operation, row.layer) for row in gp.explain(task.loss(batch), task.model).rows if row.layer}
    finder = Finder(task.model)
    with finder.looking():
        root = task.loss(batch)
    found = {(node.op.__name__, seen.layer) for node, seen in finder.seen.items()}
    assert root.edge is not None
    assert rows
    assert rows <= found
    if case == "cnn":
        assert ("ConvReluMax", "convolutions.0 .1 .2") in rows


def test_a_batch_that_is_not_finite_is_named():
    batches = data()
    batches[4][0][2, 1] = np.nan
    where = r"at step 5 .*Not finite first: the batch itself: 0\.0"
    with pytest.raises(gp.TrainingError, match=where) as stop:
        train(Net("Nan"), batches=batches)
    assert "its batch is not finite. Look at the data" in str(stop.value)
    assert "learning rate" not in str(stop.value)


@pytest.mark.parametrize("step", [1, 7])
def test_weights_that_are_not_finite_before_training_did_not_diverge(step):
    net = Net("Nan")
    spring = Spring(step, lambda model: model.last.weight.data.fill(np.inf))
    with pytest.raises(gp.TrainingError, match=r"the parameter last\.weight, before the step") as stop:
        train(net, spring)
    assert ("the weights were not finite before training" in str(stop.value)) == (step == 1)
    assert ("Lower the learning rate" in str(stop.value)) == (step != 1)


def test_without_a_run_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spring = Spring(3, lambda model: setattr(model.traps[0], "sprung", True))
    with pytest.raises(gp.TrainingError, match=r"layer traps\.0, whose inputs are"):
        train(Net("Log"), spring)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to_does_not_hide_the_failure(tmp_path):
    (tmp_path / "failure").write_text("in the way")
    spring = Spring(3, lambda model: setattr(model.traps[0], "sprung", True))
    with pytest.raises(gp.TrainingError, match=r"layer traps\.0.*could not be saved"):
        train(Net("Nan"), spring, run_folder=tmp_path)


def test_in_half_precision_too(tmp_path):
    pytest.importorskip("ml_dtypes")
    for name in ("bf16", "fp16"):
        spring = Spring(12, lambda model: setattr(model.traps[1], "sprung", True))
        with pytest.raises(gp.TrainingError, match=r"Nan in layer traps\.1") as stop:
            train(Net("Nan"), spring, precision=name, run_folder=tmp_path)
        assert ("train with bf16 or fp32" in str(stop.value)) == (name == "fp16")
        assert load_failure(tmp_path).weights["first.weight"].dtype == np.float32


def test_labels_out_of_range_are_told_of_as_such(device):
    batches = data(batches=3)
    batches[1][1][2] = 7
    with pytest.raises(gp.DataError, match="target 7 at row 2"):
        train(Net("Nan").to(device), batches=batches)


def test_the_device_is_asked_every_ten_steps(monkeypatch):
    asked, to_host = [], guard.to_host
    for module in (guard, divergence):
        monkeypatch.setattr(module, "to_host", lambda a: (asked.append(trainer_steps[0]), to_host(a))[1])
    trainer_steps = [0]
    counter = Observer()
    counter.before_step = lambda model, step: trainer_steps.__setitem__(0, step)
    train(Net("Nan"), counter)
    assert set(asked) == {1, 11, 21, 31, 40}


class Slope(gp.Op):
    """y = x        dx = dy · factor"""

    @staticmethod
    def forward(ctx, x, *, factor):
        ctx.save(factor)
        return x

    @staticmethod
    def backward(ctx, dy):
        return dy * np.float32(ctx.saved[0])


class Sloped(Net):
    factor = 1.0

    def forward(self, x):
        return self.last(Slope.apply(self.first(x), factor=self.factor))


def warnings_of(net, observer=None, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(net, observer, epochs=3, **options)
    assert all(issubclass(w.category, gp.TrainingWarning) for w in caught)
    return [str(w.message) for w in caught]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_whose_squares_overflow_are_called_too_large(dtype, tmp_path):
    large = 1e25 if dtype == "float32" else 1e200

    class Steep(gp.Op):
        """y = x        dx = dy · 1e25"""

        @staticmethod
        def forward(ctx, x):
            return x

        @staticmethod
        def backward(ctx, dy):
            return dy * dy.dtype.type(large)

    net = Sloped("Nan")
    for p in net.parameters():
        p.data = p.data.astype(dtype)
    net.forward = lambda x: net.last(Steep.apply(net.first(x)))
    batches = [(x.astype(dtype), y) for x, y in data()]
    with pytest.raises(gp.TrainingError, match="too large") as stop:
        train(net, batches=batches, run_folder=tmp_path)
    message = str(stop.value)
    assert message.startswith("gradients are too large at step 1 (epoch 1): training has diverged. Lower the")
    assert "Not finite first: the sum of the squares of all gradients" in message
    assert "The largest is that in layer first: its norm is " in message
    assert "and its square overflows" in message
    failure = load_failure(tmp_path)
    assert failure.record["layer"] == "first"
    net.load_state_dict(failure.weights)
    nn.CrossEntropyLoss()(net(batches[0][0]), batches[0][1]).backward()
    grads = [p.grad.astype("float64") / large for p in net.first.parameters()]
    norm = large * np.sqrt(sum((g**2).sum() for g in grads))
    assert f"its norm is {norm:.3g}, " in message


def test_vanishing_gradients_are_told_of_once():
    net = Sloped("Nan")
    net.factor = 1e-10
    (text,) = warnings_of(net)
    assert text.startswith("gradients vanish: their norm is")
    assert "in layer first and" in text
    assert "layer normalisation" in text
    net.factor = 1e-5
    assert warnings_of(net) == []


def test_exploding_gradients_are_told_of_once():
    net = Sloped("Nan")
    net.factor = 1e8
    (text,) = warnings_of(net, optimizer=gp.optim.SGD(net.parameters(), lr=1e-9))
    assert text.startswith("gradients explode")
    assert "Clip gradients" in text


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_jump_of_the_norm_is_an_explosion_unless_gradients_are_clipped(clip):
    net = Sloped("Nan")
    spring = Spring(81, lambda model: setattr(model, "factor", 1e5))
    texts = warnings_of(net, spring, optimizer=gp.optim.SGD(net.parameters(), lr=1e-9), clip_norm=clip)
    assert len(texts) == (clip is None)
    assert all("it was" in text for text in texts)


def saturating(activation, width=16):
    return nn.Sequential(
        nn.Linear(3, width), activation(), nn.Linear(width, width), activation(), nn.Linear(width, 2)
    )


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("steps", [4, 30])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_an_explosion_in_the_first_steps_is_told_of_once(activation, steps, clip):
    """Units saturate or die at once: their gradients are 0 then, but they did not vanish by depth."""
    net = saturating(activation)
    optimizer = gp.optim.Adam(net.parameters(), lr=100.0)
    (text,) = warnings_of(net, optimizer=optimizer, batches=data(batches=steps), clip_norm=clip)
    assert text.startswith("training explodes: from step 1 to 2 the loss went from ")
    assert "and the norm of the weights from " in text
    assert "Lower the learning rate (now 100)" in text
    assert ("clip gradients" in text) == (clip is None)


def stopped_after(steps, path):
    """What trains the network of `trainer(lr)` for an epoch of `steps` steps, and goes on from `path`."""

    def trainer(lr):
        gp.manual_seed(3)
        net, criterion = saturating(nn.Tanh), nn.CrossEntropyLoss()
        optimizer = gp.optim.Adam(net.parameters(), lr=lr)
        return gp.Trainer(net, lambda b: criterion(net(b[0]), b[1]), optimizer, progress="off")

    def go_on(lr, epochs, again=False):
        made = trainer(lr)
        if again:
            made.load(path)
            made.optimizer.param_groups[0]["lr"] = lr
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            made.fit(data(batches=steps), epochs)
        made.save(path)
        return [str(w.message) for w in caught]

    return go_on


def test_a_training_that_goes_on_is_compared_with_its_first_step(tmp_path):
    go_on = stopped_after(15, tmp_path / "state")
    assert go_on(0.001, 1) == []
    (text,) = go_on(100.0, 2, again=True)
    assert text.startswith("training explodes: from step 1 to 21 the loss went from ")


def test_what_was_told_before_a_stop_is_not_told_again(tmp_path):
    go_on = stopped_after(15, tmp_path / "state")
    assert len(go_on(100.0, 1)) == 1
    assert go_on(100.0, 3, again=True) == []


LOOK = {
    "step": 1, "first": "a", "last": "b", "begin": 0.1, "end": 0.1, "whole": 0.2, "weights": 1.0, "loss": 2.0,
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"start": LOOK | {"whole": -1.0}},
        {"start": {"step": 1}},
        {"start": LOOK | {"first": 3}},
        {"usual": [0.1, "x"]},
        {"usual": [0.1] * 1000},
        {"vanished": -1},
        {"told": [[]]},
        {"more": 1},
    ],
)
def test_a_state_that_no_guard_gave_is_refused(change):
    state = {"start": LOOK, "usual": [0.2], "vanished": 0, "told": ["exploding"]}
    divergence.check_divergence(state)
    with pytest.raises(gp.CheckpointError, match="the state of the guard is"):
        divergence.check_divergence(state | change)


def test_gradients_that_grow_a_thousandfold_in_ten_steps_are_an_explosion():
    net = Sloped("Nan")
    spring = Spring(8, lambda model: setattr(model, "factor", 1e5))
    (text,) = warnings_of(net, spring, optimizer=gp.optim.SGD(net.parameters(), lr=1e-9))
    assert text.startswith("gradients explode")
    assert "it was" in text


def test_a_layer_before_zeros_has_no_gradient_at_first_and_that_is_no_warning():
    net = saturating(nn.Tanh)
    net[4].weight.data[...] = 0.0
    assert warnings_of(net) == []


def words():
    """As the case "feedforward", whose five units are often left out or 0 all at once."""
    return Classification(FeedForwardClassifier(24, 3, 6, hidden=[32], dropout=0.3), field(), ["a", "b", "c"])


ORDINARY = {**CASES, "feedforward": (words, CASES["feedforward"][1])}


@pytest.mark.parametrize("name", ["sgd", "adam", "adagrad"])
@pytest.mark.parametrize("case", ORDINARY)
def test_an_ordinary_training_is_not_warned_of(case, name):
    gp.manual_seed(3)
    make, cut = ORDINARY[case]
    task = make()
    optimizer = make_optimizer(name, task.model, 0.01, 0.0)
    trainer = gp.Trainer(task.model, task.loss, optimizer, count=task.count, progress="off")
    trainer.fit(cut(), epochs=20)  # warnings are errors
    assert len(trainer.history) == 20
