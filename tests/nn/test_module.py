"""Module: finding parameters, state, moving, describing."""

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn


class Tied(nn.Module):
    def __init__(self):
        self.table = nn.Embedding(5, 3)
        self.blocks = [nn.Linear(3, 4), nn.Linear(4, 3, bias=False)]
        self.more = nn.ModuleList([nn.Linear(3, 3)])
        self.scale = gp.Parameter(np.ones(3, np.float32))
        self.output = self.table  # one table, used twice

    def forward(self, ids):
        x = self.table(ids)
        for block in [*self.blocks, *self.more]:
            x = block(x)
        return (x * self.scale) @ self.output.weight.T


NAMES = [
    "scale",
    "table.weight",
    "blocks.0.weight",
    "blocks.0.bias",
    "blocks.1.weight",
    "more.0.weight",
    "more.0.bias",
]


def test_parameters_are_found_once_each_in_order():
    model = Tied()
    assert [name for name, _ in model.named_parameters()] == NAMES
    assert model.num_parameters() == 15 + 12 + 4 + 12 + 9 + 3 + 3
    assert len(list(model.modules())) == 1 + 1 + 2 + 2 + 1  # the shared table is reached twice


class Held(nn.Module):
    def __init__(self):
        self.layers = {"first": nn.Linear(2, 2), "rest": [[nn.Linear(2, 2, bias=False)], (nn.ReLU(),)]}
        self.scales = [gp.Parameter(np.ones(2, np.float32)), gp.Parameter(np.ones(2, np.float32))]
        self.sizes = (2, [3, "text", None])


def test_lists_and_dictionaries_hold_parameters_at_any_depth():
    model = Held()
    layers = ["layers.first.weight", "layers.first.bias", "layers.rest.0.0.weight"]
    assert [name for name, _ in model.named_parameters()] == ["scales.0", "scales.1", *layers]
    assert [name for name, _ in model.named_modules()] == [
        "", "layers.first", "layers.rest.0.0", "layers.rest.1.0"
    ]  # fmt: skip
    assert repr(model).splitlines()[0] == "Held(  # 14"
    model.eval()
    assert not model.layers["rest"][1][0].training
    other = Held()
    other.load_state_dict(model.state_dict())
    assert gp.interop.to_torch(other).keys() == model.state_dict().keys()


def test_state_goes_out_and_back_shaped_as_users_see_it():
    first, second = Tied(), Tied()
    state = first.state_dict()
    assert list(state) == NAMES
    assert state["blocks.0.weight"].shape == (4, 3)
    assert all(a.flags.c_contiguous for a in state.values())
    second.load_state_dict(state)
    ids = np.array([[0, 1], [4, 2]])
    np.testing.assert_array_equal(first(ids).numpy(), second(ids).numpy())
    state["scale"][:] = 7  # a copy: the model does not follow
    assert float(first.scale.data[0]) == 1


def test_a_wrong_state_is_refused_before_anything_changes():
    model = Tied()
    before = model.state_dict()
    bad = {**model.state_dict(), "scale": np.zeros(9), "table.weight": np.zeros((5, 3))}
    with pytest.raises(gp.CheckpointError, match=r"scale has shape \(9,\), the model expects \(3,\)"):
        model.load_state_dict(bad)
    missing = {n: a for n, a in before.items() if n != "more.0.bias"} | {"other": np.zeros(1)}
    with pytest.raises(gp.CheckpointError, match=r"missing: more.0.bias; unexpected: other"):
        model.load_state_dict(missing)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    assert model.load_state_dict(missing, strict=False) == (["more.0.bias"], ["other"])


def test_train_and_eval_reach_every_module():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.5)))
    assert all(not m.training for m in model.eval().modules())
    assert all(m.training for m in model.train().modules())


def test_zero_grad_forgets_gradients():
    model = nn.Linear(2, 1)
    model(np.ones((1, 2), np.float32)).sum().backward()
    assert model.weight.grad is not None
    model.zero_grad()
    assert model.weight.grad is None


def test_repr_shows_the_tree_with_counts():
    model = nn.Sequential(nn.Embedding(10, 4, padding_idx=0), nn.Linear(4, 2), nn.ReLU())
    assert repr(model) == (
        "Sequential(  # 50\n"
        "  (0): Embedding(10, 4, padding_idx=0)  # 40\n"
        "  (1): Linear(4, 2)  # 10\n"
        "  (2): ReLU()\n"
        ")"
    )


def test_moving_to_the_cpu_keeps_values_and_layout():
    layer = nn.Linear(3, 2)
    before = layer.state_dict()
    assert layer.to("cpu") is layer
    assert layer.weight.data.T.flags.c_contiguous
    np.testing.assert_array_equal(layer.weight.numpy(), before["weight"])


def test_the_same_seed_gives_the_same_weights():
    gp.manual_seed(5)
    a = Tied().state_dict()
    gp.manual_seed(5)
    b = Tied().state_dict()
    gp.manual_seed(6)
    c = Tied().state_dict()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
    assert (a["table.weight"] != c["table.weight"]).any()


def test_initial_weights_follow_pytorch():
    gp.manual_seed(0)
    weight = nn.Linear(400, 300).weight.numpy()
    assert weight.dtype == np.float32
    assert np.abs(weight).max() <= 1 / 20
    assert abs(weight.std() - 1 / 20 / np.sqrt(3)) < 1e-4
    table = nn.Embedding(500, 200, padding_idx=3).weight.numpy()
    assert abs(table.std() - 1) < 0.01
    assert not table[3].any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Linear(0, 3), "in_features must be an integer of at least 1, not 0"),
        (lambda: nn.Linear(3, 2.5), "out_features"),
        (lambda: nn.Embedding(3, 2, padding_idx=3), r"padding_idx 3 is outside 0..2"),
        (lambda: nn.Sequential(3), "modules, not int"),
        (lambda: nn.Linear(3, 2)(np.ones((2, 4), np.float32)), r"Linear expects \(..., 3\) but got \(2, 4\)"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises((ValueError, TypeError, gp.ShapeError), match=message):
        make()


def test_frozen_parameters_stay_as_they_are():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].weight.requires_grad = False
    optimizer = gp.optim.AdamW(model.parameters(), lr=0.1)
    before = model.state_dict()
    model(np.ones((2, 3), np.float32)).sum().backward()
    gp.optim.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    model.zero_grad()
    model.to("cpu")
    after = model.state_dict()
    np.testing.assert_array_equal(before["0.weight"], after["0.weight"])
    assert (before["1.weight"] != after["1.weight"]).all()


def test_a_parameter_that_is_thawed_after_the_optimizer_was_made_is_trained():
    layer = nn.Linear(3, 2)
    layer.weight.requires_grad = False
    optimizer = gp.optim.SGD(layer.parameters(), lr=1.0)
    layer.weight.requires_grad = True
    before = layer.state_dict()
    layer(np.ones((1, 3), np.float32)).sum().backward()
    optimizer.step()
    np.testing.assert_allclose(layer.weight.numpy(), before["weight"] - 1, rtol=1e-6)
