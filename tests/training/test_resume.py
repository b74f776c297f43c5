"""Training that goes on from a checkpoint ends with the bits of the training that was never stopped."""

import os
import signal

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn
from gpuprop.text import text_batches
from gpuprop.training import CheckpointFolder, Interrupted
from gpuprop.training.session import make_optimizer, make_schedule

CLOCK = {"seconds", "tokens_per_second"}
EPOCHS, ROWS = 3, 38


def rows():
    rng = np.random.default_rng(0)
    lists = [rng.integers(4, 30, int(n)).tolist() for n in rng.integers(1, 9, ROWS)]
    return lists, np.array([sum(ids) % 2 for ids in lists])


class Averaged(nn.Module):
    def __init__(self):
        self.embedding = nn.Embedding(30, 4)
        self.dropout = nn.Dropout(0.3)
        self.out = nn.Linear(4, 2)

    def forward(self, ids, mask):
        return self.out(nn.MeanOverTime()(self.dropout(self.embedding(ids)), mask))


def make(checkpoints=None, optimizer="adam", schedule="constant", accumulate=1, plain=False, **options):
    """A trainer and its batches, as every process of a training makes them anew."""
    gp.manual_seed(3)
    model, criterion = Averaged(), nn.CrossEntropyLoss()
    lists, labels = rows()
    batches = text_batches(lists, labels, 8, seed=1)
    batches = list(batches) if plain else batches
    steps = -(-len(batches) // accumulate)
    chosen = make_optimizer(optimizer, model, 0.1, 0.01)
    trainer = gp.Trainer(
        model,
        lambda batch: criterion(model(batch.ids, batch.mask), batch.labels),
        chosen,
        schedule=make_schedule(schedule, chosen, steps, EPOCHS, 0),
        clip_norm=1.0,
        validate=lambda: {"loss": sum(criterion(model(b.ids, b.mask), b.labels).item() for b in valid)},
        watch="valid_loss",
        accumulate=accumulate,
        checkpoints=checkpoints,
        progress="off",
        **options,
    )
    valid = list(text_batches(*rows(), 25, shuffle=False))
    return trainer, batches


def outcome(trainer):
    """Final weights, moments and metrics, without the clock."""
    moments = trainer.optimizer.state_dict()["arrays"]
    bits = {n: a.tobytes() for n, a in [*trainer.model.state_dict().items(), *moments.items()]}
    return bits, [{k: v for k, v in r.items() if k not in CLOCK} for r in trainer.history]


def whole_state(trainer):
    """What decides how training goes on."""
    state = trainer.state
    return state.epoch, state.step, state.best, state.best_epoch, state.waited, trainer.best_weights is None


CASES = {
    "adam": {},
    "sgd, plateau": {"optimizer": "sgd", "schedule": "plateau", "patience": 2},
    "adamw, cosine, accumulated": {"optimizer": "adamw", "schedule": "cosine", "accumulate": 2},
    "adam, float16": {"precision": "fp16", "accumulate": 2},
    "rmsprop, a list of batches": {"optimizer": "rmsprop", "schedule": "step", "plain": True},
    "adagrad, accumulated list": {
        "optimizer": "adagrad",
        "schedule": "linear",
        "accumulate": 3,
        "plain": True,
    },
}


@pytest.mark.parametrize("case", CASES)
def test_going_on_from_any_step_gives_the_same_bits(tmp_path, case):
    plain, batches = make(**CASES[case])
    plain.fit(batches, EPOCHS)
    folder = CheckpointFolder(tmp_path / "all", every_steps=1, keep=1000)
    saving, batches = make(folder, **CASES[case])
    saving.fit(batches, EPOCHS)
    assert outcome(saving) == outcome(plain)
    files = folder.files()
    assert len(files) == saving.state.step
    for file in files:
        trainer, batches = make(**CASES[case])
        trainer.load(file)
        trainer.fit(batches, EPOCHS)
        assert outcome(trainer) == outcome(plain), file.name
    assert whole_state(trainer) == whole_state(plain)


def test_streams_of_random_numbers_come_from_the_checkpoint(tmp_path):
    """A process that made other layers before numbers its streams differently."""
    whole, batches = make()
    whole.fit(batches, EPOCHS)
    saving, batches = make(CheckpointFolder(tmp_path, every_steps=1, keep=1000))
    saving.fit(batches, 2)
    trainer, batches = make()
    for layer in (trainer.model.dropout, nn.Dropout(0.1)):
        layer.stream += 40
    gp.manual_seed(99)
    trainer.load(tmp_path / "step-00000009.safetensors")
    trainer.fit(batches, EPOCHS)
    assert outcome(trainer) == outcome(whole)


@pytest.mark.parametrize("place", ["step", "last step", "validation"])
@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_a_signal_saves_and_training_goes_on_exactly(tmp_path, place, accumulate):
    whole, batches = make(accumulate=accumulate)
    whole.fit(batches, EPOCHS)
    trainer, batches = make(CheckpointFolder(tmp_path / "c"), accumulate=accumulate)
    epoch_steps = -(-len(batches) // accumulate)
    loss, validate = trainer.loss, trainer.validate
    at = {"step": epoch_steps, "last step": 2 * epoch_steps - 1, "validation": -1}[place]

    def interrupted_loss(batch):
        if trainer.state.step == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(batch)

    def interrupted_validate():
        if place == "validation" and trainer.state.epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return validate()

    trainer.loss, trainer.validate = interrupted_loss, interrupted_validate
    with pytest.raises(Interrupted):
        trainer.fit(batches, EPOCHS)
    assert len(trainer.history) == 1
    trainer, batches = make(CheckpointFolder(tmp_path / "c"), accumulate=accumulate)
    assert trainer.resume() is not None
    assert trainer.state.epoch == 1
    trainer.fit(batches, EPOCHS)
    assert outcome(trainer) == outcome(whole)


def test_the_same_trainer_goes_on_after_a_signal(tmp_path):
    whole, batches = make()
    whole.fit(batches, EPOCHS)
    trainer, batches = make(CheckpointFolder(tmp_path / "c"))
    loss = trainer.loss
    trainer.loss = lambda batch: (os.kill(os.getpid(), signal.SIGINT), loss(batch))[1]
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(batches, EPOCHS)
    trainer.loss = loss
    assert trainer.resume() == tmp_path / "c" / "step-00000001.safetensors"
    trainer.fit(batches, EPOCHS)
    assert outcome(trainer) == outcome(whole)


def test_a_step_cut_in_two_is_not_saved(tmp_path):
    """A second signal does not wait for the end of the step: the weights may be half updated."""
    trainer, batches = make(CheckpointFolder(tmp_path / "c"))
    step = trainer.optimizer.step

    def twice():
        step()
        if trainer.state.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    trainer.optimizer.step = twice
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(batches, 1)
    assert list((tmp_path / "c").iterdir()) == []


def test_a_finished_training_can_be_made_longer(tmp_path):
    whole, batches = make()
    whole.fit(batches, EPOCHS)
    short, batches = make(CheckpointFolder(tmp_path / "c"))
    short.fit(batches, 2)
    trainer, batches = make(CheckpointFolder(tmp_path / "c"))
    trainer.resume()
    assert trainer.finished(2)
    trainer.fit(batches, EPOCHS)
    assert outcome(trainer) == outcome(whole)


def test_a_state_that_does_not_fit_says_what_differs_and_changes_nothing(tmp_path):
    trainer, batches = make(CheckpointFolder(tmp_path / "c"))
    trainer.fit(batches, 1)
    state, other = trainer.state_dict(), make()[0]
    before = outcome(other)[0]
    changed = {
        "only the checkpoint has model.extra": {"model": {**state["model"], "extra": np.ones(2)}},
        r"model.out.bias is an array of shape \(2,\) and type float64": {
            "model": {**state["model"], "out.bias": np.zeros(2)}
        },
        "out.bias holds values that are not finite": {
            "model": {**state["model"], "out.bias": np.full(2, np.nan, np.float32)}
        },
        "optimizer.steps is a str": {"optimizer": {**state["optimizer"], "steps": "3"}},
        "optimizer.steps is a number": {"optimizer": {**state["optimizer"], "steps": 1e300}},
        "schedule is a list": {"schedule": []},
        "epoch -1": {"training": {**state["training"], "epoch": -1}},
        "history": {"training": {**state["training"], "history": [1]}},
        "random.seed": {"random": {**state["random"], "seed": "x"}},
        "outside 0 to": {"random": {**state["random"], "step": -1}},
        "random.step": {"random": {**state["random"], "step": 1 << 64}},
        "how often streams": {"random": {**state["random"], "calls": {"x": 1}}},
        "position of the batches": {"batches": 3},
    }
    other.schedule = gp.optim.ConstantLR(other.optimizer)
    state["schedule"] = other.schedule.state_dict()
    for message, change in changed.items():
        with pytest.raises(gp.CheckpointError, match=message):
            other.load_state_dict({**state, **change})
    with pytest.raises(gp.CheckpointError, match="has no batches"):
        other.load_state_dict({k: v for k, v in state.items() if k != "batches"})
    assert outcome(other)[0] == before
