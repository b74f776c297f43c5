"""The backward pass as a table: what it lists, what it counts, and to which layers."""

import re

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn, ops
from gpuprop.explanation import MOST_ROWS
from gpuprop.nn.attribution import Layers

rng = np.random.default_rng(0)
B, L, I, H, K, O = 3, 5, 7, 4, 2, 6  # noqa: E741


def leaf(*shape):
    return gp.tensor(rng.standard_normal(shape).astype(np.float32), requires_grad=True)


def first(y, operation):
    """The row of an operation in the backward pass of Σ y."""
    return next(row for row in gp.explain(y.sum()).rows if row.operation == operation)


def model():
    gp.manual_seed(0)
    return nn.Sequential(nn.Linear(I, H), nn.ReLU(), nn.Linear(H, 2))


def test_rows_run_from_the_loss_to_the_first_layer_and_name_layers():
    m, x, labels = model(), rng.standard_normal((B, I)).astype(np.float32), np.array([0, 1, 0])
    found = gp.explain(nn.CrossEntropyLoss()(m(x), labels), m)
    assert [(row.layer, row.operation) for row in found.rows] == [
        ("", "SoftmaxCrossEntropy"), ("2", "Linear"), ("", "ReLU"), ("0", "Linear"),
    ]  # fmt: skip
    last = found.rows[-1]
    assert last.arrived == ((B, H),)
    assert last.returned == (None, (H, I), (H,))
    assert found.rows[0].norm == 1.0
    logits = m(x)
    assert found.loss == pytest.approx(nn.CrossEntropyLoss()(logits, labels).item())


def test_it_leaves_the_gradients_that_backward_leaves():
    m, x = model(), rng.standard_normal((B, I)).astype(np.float32)
    m(x).sum().backward()
    expected = [p.grad.copy() for p in m.parameters()]
    m.zero_grad()
    gp.explain(m(x).sum())
    for p, grad in zip(m.parameters(), expected, strict=True):
        np.testing.assert_array_equal(p.grad, grad)


def test_norms_are_those_of_the_gradients_that_arrive():
    x = leaf(3)
    row = first(x * np.float32(2.0), "Multiply")
    assert row.norm == pytest.approx(np.sqrt(3))
    assert row.bytes >= 2 * 3 * 4  # what arrives and what is returned
    assert row.flops == 3


def test_flops_of_products(device):
    with gp.use_device(device):
        x, w, b = (gp.tensor(a.numpy(), requires_grad=True) for a in (leaf(B, I), leaf(O, I), leaf(O)))
        assert first(ops.linear(x, w, b), "Linear").flops == 2 * (2 * B * I * O) + B * O
        assert first(ops.linear(x, w, b, activation="relu"), "Linear").flops == 4 * B * I * O + 2 * B * O
        assert first(ops.linear(x.detach(), w), "Linear").flops == 2 * B * I * O
        assert first(x @ w.transpose(1, 0), "MatMul").flops == 4 * B * I * O
        text, filters = gp.tensor(leaf(B, L, I).numpy(), requires_grad=True), gp.tensor(leaf(O, K, I).numpy())
        assert first(ops.conv1d(text, filters), "Conv1d").flops == 2 * B * (L - K + 1) * O * K * I


def test_flops_of_convolutions_with_groups_and_of_their_maximum():
    text, filters, bias = leaf(B, L, 4), leaf(O, K, 2), leaf(O)
    outputs = B * (L - K + 1) * O
    assert first(ops.conv1d(text, filters, bias, groups=2), "Conv1d").flops == outputs * (4 * K * 2 + 1)
    whole = leaf(O, K, 4)
    row = first(ops.conv1d_relu_max(text, [(whole, bias)]), "ConvReluMax")
    assert row.flops == 4 * B * O * K * 4 + B * O


@pytest.mark.parametrize(("operation", "gates"), [("GRU", 3), ("LSTM", 4)])
def test_flops_of_recurrent_layers(operation, gates):
    cell = getattr(nn, operation)(I, H)
    per_position = 4 * gates * H * (I + H) + 2 * gates * H
    assert first(cell(leaf(B, L, I))[0], operation).flops == B * L * per_position
    frozen_input = B * L * (per_position - 2 * gates * H * I)
    assert first(cell(leaf(B, L, I).detach())[0], operation).flops == frozen_input


def test_flops_of_attention():
    query, key = leaf(B, L, H), leaf(B, 2, H)
    dot = first(ops.attention_weights(query, key) * leaf(B, L, 2), "DotProductWeights")
    assert dot.flops == B * L * 2 * (4 + 4 * H)
    value = leaf(B, 2, O)
    whole = first(ops.scaled_dot_product_attention(query, key, value), "Attention")
    assert whole.flops == B * L * 2 * (2 * 2 * O + 4 + 2 * 2 * H)
    values_alone = ops.scaled_dot_product_attention(query.detach(), key.detach(), value)
    assert first(values_alone, "Attention").flops == B * L * 2 * 2 * O
    additive = first(ops.additive_attention_weights(query, key, leaf(H)) * leaf(B, L, 2), "AdditiveWeights")
    assert additive.flops == B * L * 2 * (4 + 9 * H)


def test_a_gradient_that_is_zero_or_not_a_number_is_pointed_out():
    x = leaf(3)
    assert "no gradient (0) arrives at Exp" in repr(gp.explain((x.exp() * np.float32(0.0)).sum()))
    broken = gp.explain((x.exp() * np.float32(np.nan)).sum())
    assert broken.notes() == ["the gradient is nan on arrival at Exp, first of all"]
    assert gp.explain(x.exp().sum()).notes() == []


def test_text_and_html_hold_the_same_table():
    m = model()
    found = gp.explain(m(rng.standard_normal((B, I)).astype(np.float32)).sum(), m)
    text, page = repr(found), found._repr_html_()
    assert str(found) == text
    for word in ("layer", "operation", "bytes", "FLOPs", "‖dL/dy‖", "time", "(3, 2) → (3, 4) (2, 4) (2)"):
        assert word in text
        assert word in page
    for cell in re.findall(r"<td[^>]*>[^<]*", page):
        assert ("white-space:nowrap" in cell) == ("→" not in cell)  # numbers keep their units beside them
    assert page.count("<tr>") == 1 + len(found.rows) + 1 + len(found.by_operation())
    assert sum(total.seconds for total in found.by_operation()) == pytest.approx(found.seconds)


def test_a_long_pass_is_cut_and_says_so():
    y = x = leaf(2)
    for _ in range(MOST_ROWS + 4):
        y = y + x
    found = gp.explain(y.sum())
    assert len(found.rows) == MOST_ROWS + 5
    assert "and 5 more; all are in .rows" in repr(found)
    assert "and 5 more; all are in .rows" in found._repr_html_()


def test_names_are_escaped_in_html():
    class Odd(gp.Op):
        """y = x"""

        @staticmethod
        def forward(ctx, x):
            return x * 1.0

        @staticmethod
        def backward(ctx, dy):
            return dy

    Odd.__name__ = "<b>Odd</b>"
    assert "&lt;b&gt;Odd" in gp.explain(Odd.apply(leaf(2)).sum())._repr_html_()


@pytest.mark.parametrize("loss", [3, 0.5, None, np.ones(1, "float32")])
def test_what_is_no_tensor_is_refused(loss):
    with pytest.raises(TypeError, match=r"explain takes the loss, a gpuprop Tensor of one element, not "):
        gp.explain(loss)


@pytest.mark.parametrize("wrong", [3, "model", nn.Linear, [nn.Linear(1, 1)]])
def test_a_model_that_is_none_is_refused_and_the_loss_is_left(wrong):
    loss = leaf(2).exp().sum()
    with pytest.raises(TypeError, match=r"takes the model, a gpuprop nn.Module .*gp\.explain\(loss, m"):
        gp.explain(loss, wrong)
    assert len(gp.explain(loss).rows) == 2


def test_a_second_pass_is_refused_as_by_backward():
    loss = leaf(2).exp().sum()
    gp.explain(loss)
    with pytest.raises(RuntimeError, match="a second time"):
        gp.explain(loss)


def test_shared_tables_count_where_their_kind_fits():
    m = gp.models.Seq2Seq(20, 20, embedding_dim=8, hidden_size=8, tied="all")
    ids = rng.integers(4, 20, (B, L))
    found = gp.explain(m(ids, None, ids[:, :2]).sum(), m)
    linears = [row.layer for row in found.rows if row.operation == "Linear"]
    assert linears[:2] == ["decoder.output", "decoder.combine"]
    assert found.rows[-1].layer == "encoder.embedding"
    names = Layers(m).names
    assert "encoder.embedding" in names
    assert "decoder.embedding" not in names  # the table counts once
    assert "decoder.output" in names  # its bias


def test_layers_side_by_side_are_named_together():
    m = gp.models.TextCNN(20, 2, embedding_dim=8, widths=(2, 3), filters=4)
    found = gp.explain(m(rng.integers(1, 20, (B, L))).sum(), m)
    assert "convolutions.0 .1" in [row.layer for row in found.rows]
