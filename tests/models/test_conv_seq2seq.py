"""What is special to the convolutional encoder-decoder: windows, what a step keeps, how it starts."""

import numpy as np
import pytest
from families import loss_of, pairs
from model_checks import as_float64, assert_close, gradients, widen

import gpuprop as gp
from gpuprop.models import ConvSeq2Seq

KERNELS = [1, 2, 4, 9]  # the last is longer than any text here


def make(**options):
    gp.manual_seed(3)
    sizes = {"embedding_dim": 3, "channels": 4, "num_layers": 2, "dropout": 0.0, **options}
    return ConvSeq2Seq(9, 7, **sizes)


@pytest.mark.parametrize("kernel_size", KERNELS)
def test_steps_are_the_whole_model_for_every_window(kernel_size, device):
    model = as_float64(make(kernel_size=kernel_size)).eval()
    source, mask, target_in, _ = pairs([5, 2], [6, 6])
    logits = model(source, mask, target_in).numpy().copy()
    logits[..., [0, 2]] = -np.inf
    expected = gp.ops.log_softmax(logits).numpy()
    state = model.start(source, mask)
    for time in range(target_in.shape[1]):
        assert [past.shape for past in state.past] == [(2, kernel_size - 1, 4)] * 2
        scores, state = model.step(target_in[:, time], state)
        np.testing.assert_allclose(gp.tensor(scores).numpy(), expected[:, time], rtol=1e-10)


@pytest.mark.parametrize("kernel_size", KERNELS)
def test_padding_changes_nothing_for_every_window(kernel_size, device):
    model = as_float64(make(kernel_size=kernel_size)).eval()
    source, mask, target_in, target_out = pairs([5, 1, 3], [4, 1, 2])
    before = gradients(model, loss_of(model, (source, mask, target_in, target_out)))
    after = gradients(model, loss_of(model, (*widen(source, mask, 4), target_in, target_out)))
    assert before.keys() == after.keys() == dict(model.named_parameters()).keys()
    for name in before:
        assert_close(after[name], before[name], 1e-10)


def test_the_encoder_sees_as_far_as_its_windows_reach():
    model = make(kernel_size=3, num_layers=2).eval()
    source, mask, *_ = pairs([12], [1])
    before = model.encoder(source, mask).keys.numpy().copy()
    source[0, 6] = 4 if source[0, 6] != 4 else 5
    changed = (model.encoder(source, mask).keys.numpy() != before).any(axis=2)[0]
    np.testing.assert_array_equal(np.flatnonzero(changed), [4, 5, 6, 7, 8])


def test_values_are_the_mean_of_keys_and_token_vectors_but_for_their_variance(device):
    model = as_float64(make()).eval()
    source, mask, *_ = pairs([5, 2], [1, 1])
    memory = model.encoder(source, mask)
    e = gp.ops.unpack(model.encoder.embedding(*model.encoder.embedding.readable("", source, mask)), mask)
    expected = np.sqrt(0.5) * (memory.keys.numpy() + e.numpy())
    np.testing.assert_allclose(memory.values.numpy(), expected, rtol=1e-12)


def test_linear_maps_stand_only_between_different_widths():
    def names(channels):
        found = (name for name, _ in make(channels=channels).named_parameters())
        return {name.removesuffix(".0.weight") for name in found if name.endswith(".0.weight")}

    layers = {f"decoder.layers.{i}.context" for i in range(2)}
    assert names(3) == set()
    assert names(4) == {"encoder.input", "encoder.output", "decoder.input", "decoder.last"} | layers


def test_initial_weights_let_inputs_of_variance_1_through_with_their_variance():
    model = make(embedding_dim=64, channels=128, kernel_size=5, dropout=0.2).train()
    conv, query = model.encoder.layers[0].conv, model.decoder.layers[0].query
    np.testing.assert_allclose(conv.weight.numpy().std(), np.sqrt(3 * 0.8 / (5 * 128)), rtol=0.02)
    np.testing.assert_allclose(query.weight.numpy().std(), np.sqrt(1 / 128), rtol=0.02)
    assert not conv.bias.numpy().any()
    assert not query.bias.numpy().any()
    x = np.random.default_rng(0).standard_normal((200, 128)).astype(np.float32)
    y = model.encoder.layers[0](gp.tensor(x), np.ones((1, 200), bool))
    np.testing.assert_allclose(y.numpy().var(), x.var(), rtol=0.1)


def test_training_starts_near_chance():
    """The loss of a guess among V tokens is ln V; activations that grow by layer start far above."""
    gp.manual_seed(0)
    model = ConvSeq2Seq(500, 500, 64, 64, num_layers=6).eval()
    rng = np.random.default_rng(0)
    source, target_in, target = (rng.integers(4, 500, (8, 12)) for _ in range(3))
    loss = gp.nn.SequenceCrossEntropyLoss()(model(source, None, target_in), target).item()
    assert loss == pytest.approx(np.log(500), abs=2.0)


def test_learned_positions_name_the_longest_text():
    model = make(positions="learned", max_positions=4)
    assert model.longest == 4
    assert make().longest is None
    source, mask, target_in, _ = pairs([5], [2])
    with pytest.raises(gp.DataError, match=r"5 tokens .* positions \(4\)"):
        model(source, mask, target_in)
