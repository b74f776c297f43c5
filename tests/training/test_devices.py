"""A training is the same on every device: the losses, the gradients and the weights after a few steps."""

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import models, nn, optim

IDS = np.array([[4, 5, 6, 7], [8, 9, 4, 0], [5, 8, 0, 0], [9, 7, 6, 5]])
LABELS = np.array([0, 1, 1, 0])
TARGETS = np.array([[2, 4, 5], [2, 6, 0], [2, 7, 4], [2, 5, 0]])  # <s> first
WANTED = np.array([[4, 5, 3], [6, 3, -100], [7, 4, 3], [5, 3, -100]])


def classifier(kind):
    gp.manual_seed(1)
    model = kind()
    criterion = nn.CrossEntropyLoss(weight=np.array([1.0, 2.0], np.float32), label_smoothing=0.1)
    return model, lambda: criterion(model(IDS, IDS > 0), LABELS)


def translator(kind):
    gp.manual_seed(1)
    model = kind()
    criterion = nn.SequenceCrossEntropyLoss()
    return model, lambda: criterion(model(IDS, IDS > 0, TARGETS), WANTED, WANTED >= 0)


def recurrent(cell):
    return models.Seq2Seq(10, 8, embedding_dim=6, hidden_size=5, cell=cell, dropout=0.2)


TASKS = {
    "feedforward": lambda: classifier(
        lambda: models.FeedForwardClassifier(10, 2, 6, hidden=(5,), dropout=0.3)
    ),
    "cnn": lambda: classifier(lambda: models.TextCNN(10, 2, embedding_dim=6, widths=(2, 3), filters=4)),
    "gru": lambda: translator(lambda: recurrent("gru")),
    "lstm": lambda: translator(lambda: recurrent("lstm")),
    "conv": lambda: translator(lambda: models.ConvSeq2Seq(10, 8, 6, 5, num_layers=2, dropout=0.2)),
    "transformer": lambda: translator(lambda: models.Transformer(10, 8, 6, 2, 8, 1, dropout=0.2)),
}
OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: optim.Adam(p, lr=0.01),
    "adamw": lambda p: optim.AdamW(p, lr=0.01),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.01),
    "adagrad": lambda p: optim.Adagrad(p, lr=0.05),
    "slow adam": lambda p: optim.Adam(p, lr=0.002),
}


def trained(place, task, optimizer, steps=3):
    """(losses, weights) after some steps with clipped gradients, all on the host."""
    with gp.use_device(place):
        model, loss_of = TASKS[task]()
        stepper = OPTIMIZERS[optimizer](model.parameters())
        losses = []
        for _ in range(steps):
            stepper.zero_grad()
            loss = loss_of()
            loss.backward()
            optim.clip_grad_norm_(model.parameters(), 1.0)
            stepper.step()
            losses.append(loss.item())
        assert {p.device.type for p in model.parameters()} == {place}
        return losses, model.state_dict()


@pytest.mark.parametrize(
    ("task", "optimizer"),
    [*((t, "adam") for t in TASKS), *(("feedforward", o) for o in OPTIMIZERS if o != "adam")],
)
def test_a_training_is_the_same_on_every_device(device, task, optimizer):
    losses, weights = trained(device, task, optimizer)
    expected_losses, expected = trained("cpu", task, optimizer)
    assert len(set(losses)) == len(losses)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
    for name, value in weights.items():
        if name.endswith("in_proj_bias"):
            continue  # what is added to all keys changes no softmax: Adam magnifies a gradient of rounding
        np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol=1e-4, err_msg=name)


SLOW = ("transformer", "conv", "lstm")
LONG = [
    *((task, 60 if task in SLOW else 200) for task in TASKS),
    *(pytest.param(task, 200, marks=pytest.mark.full) for task in SLOW),
]


@pytest.mark.parametrize(("task", "steps"), LONG)
def test_two_hundred_steps_stay_together(device, task, steps):
    losses, _ = trained(device, task, "slow adam", steps)
    expected, _ = trained("cpu", task, "slow adam", steps)
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-4)


def test_the_trainer_learns_and_its_weights_can_be_kept(device, tmp_path):
    model, loss_of = classifier(lambda: models.FeedForwardClassifier(10, 2, 6))
    trainer = gp.Trainer(  # a loss that makes arrays on the host cannot be captured
        model, lambda batch: loss_of(), optim.Adam(model.parameters(), lr=0.05), progress="off", capture=False
    )
    history = trainer.fit([IDS] * 5, epochs=4)
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    gp.save(model, tmp_path / "model.safetensors")
    other, _ = classifier(lambda: models.FeedForwardClassifier(10, 2, 6))
    other.load_state_dict(gp.load(tmp_path / "model.safetensors"))
    with gp.no_grad():
        same = model.eval()(IDS, IDS > 0).numpy(), other.eval()(IDS, IDS > 0).numpy()
    np.testing.assert_array_equal(*same)
