"""The two classifiers: shapes, gradients, padding, pretrained vectors, learning."""

import numpy as np
import pytest
from model_checks import as_float64, assert_close, gradients, random_texts, widen

import gpuprop as gp
from gpuprop.backend.arrays import to_host
from gpuprop.models import FeedForwardClassifier, TextCNN
from gpuprop.testing import gradcheck

SMALL = {
    "feedforward": lambda: FeedForwardClassifier(12, 3, embedding_dim=4),
    "deep feedforward": lambda: FeedForwardClassifier(12, 3, embedding_dim=4, hidden=(8, 7)),
    "cnn": lambda: TextCNN(12, 3, embedding_dim=4, widths=(1, 2, 3), filters=2),
}


@pytest.fixture(params=SMALL)
def small(request, device):
    gp.manual_seed(3)
    return SMALL[request.param]


def test_logits_have_one_column_a_class(small):
    ids, mask = random_texts([5, 1, 3], 12)
    logits = small()(ids, mask)
    assert logits.shape == (3, 3)
    assert logits.dtype == np.float32


def test_gradients_of_the_whole_model(small):
    model = as_float64(small()).eval()
    ids, mask = random_texts([4, 1, 2], 12)
    gradcheck(lambda *_: model(ids, mask), list(model.parameters()))
    for name, gradient in gradients(model, model(ids, mask).sum()).items():
        assert np.any(gradient), name  # or the check above compared nothing


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-4)])
def test_padding_changes_nothing(small, dtype, tolerance):
    model = (as_float64(small()) if dtype == "float64" else small()).eval()
    ids, mask = random_texts([6, 1, 2, 4], 12)
    loss = gp.nn.CrossEntropyLoss()
    labels = np.array([0, 1, 2, 1])
    narrow = model(ids, mask)
    before = gradients(model, loss(narrow, labels))
    wide = model(*widen(ids, mask, 7))
    after = gradients(model, loss(wide, labels))
    assert_close(wide.numpy(), narrow.numpy(), tolerance)
    assert before.keys() == after.keys()
    for name in before:
        assert_close(after[name], before[name], tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-4)])
def test_a_batch_of_one_gives_the_row_of_the_batch(small, dtype, tolerance):
    model = (as_float64(small()) if dtype == "float64" else small()).eval()
    lengths = [6, 1, 2, 4]
    ids, mask = random_texts(lengths, 12)
    together = model(ids, mask).numpy()
    for row, length in enumerate(lengths):
        alone = model(ids[row : row + 1, :length], mask[row : row + 1, :length])
        assert_close(alone.numpy()[0], together[row], tolerance)


def test_without_a_mask_padding_is_where_the_padding_id_stands(small):
    model = small().eval()
    ids, mask = random_texts([5, 2], 12)
    np.testing.assert_array_equal(model(ids).numpy(), model(ids, mask).numpy())


def test_what_stands_behind_the_mask_is_not_read(small):
    model = small().eval()
    ids, mask = random_texts([5, 2], 12)
    noisy = np.where(mask, ids, 7)
    np.testing.assert_array_equal(model(noisy, mask).numpy(), model(ids, mask).numpy())


def test_windows_of_padding_never_win(device):
    # With a negative weight everywhere every real window scores below the zero of an empty one.
    model = TextCNN(6, 2, embedding_dim=1, widths=(2,), filters=1).eval()
    model.embedding.weight.data[1:] = 1.0
    model.convolutions[0].weight.data[...] = -1.0
    model.convolutions[0].bias.data[...] = 5.0
    model.output.weight.data[...] = 1.0
    model.output.bias.data[...] = 0.0
    ids = np.array([[1, 2, 3, 0, 0, 0]])
    # windows: (0 1) 4, (1 1) 3, (1 1) 3, (1 0) 4; a window of padding alone would give 5
    np.testing.assert_allclose(model(ids).numpy(), [[4.0, 4.0]], rtol=1e-6)


def test_padding_counts_as_zeros_whatever_its_row_holds(device):
    ids, mask = random_texts([5, 2], 12)
    found = []
    for value in (0.0, 7.0):
        gp.manual_seed(0)
        model = TextCNN(12, 3, embedding_dim=4, widths=(2, 3), filters=3).eval()
        model.embedding.weight.data[0] = value
        y = model(ids, mask)
        y.sum().backward()
        found.append([y.numpy(), *(to_host(p.grad) for p in model.parameters())])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_average_is_over_the_words_that_are_there(device):
    model = FeedForwardClassifier(6, 2, embedding_dim=2).eval()
    table = np.arange(12, dtype=np.float32).reshape(6, 2)
    model.load_embeddings(table)
    model.output.weight.data[...] = gp.tensor(np.eye(2, dtype=np.float32)).data
    model.output.bias.data[...] = 0.0
    np.testing.assert_allclose(model(np.array([[2, 5, 0, 0]])).numpy(), [[7.0, 8.0]], rtol=1e-6)


@pytest.mark.parametrize("freeze", [False, True])
def test_pretrained_vectors_start_there_and_move_unless_frozen(small, freeze):
    model = small()
    vectors = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
    model.load_embeddings(vectors, freeze=freeze)
    vectors[0] = 0  # padding stays zero whatever the file says
    np.testing.assert_array_equal(model.state_dict()["embedding.weight"], vectors)
    optimizer = gp.optim.Adam(model.parameters(), lr=0.1)
    ids, mask = random_texts([6, 5, 9], 12)
    gp.nn.CrossEntropyLoss()(model(ids, mask), np.array([0, 1, 2])).backward()
    optimizer.step()
    after = model.state_dict()["embedding.weight"]
    np.testing.assert_array_equal(after[0], 0)
    assert np.array_equal(after, vectors) is freeze


@pytest.mark.parametrize(
    ("array", "message"),
    [(np.zeros((11, 4)), r"\(11, 4\).*\(12, 4\)"), (np.full((12, 4), np.nan), "row 0 is not finite")],
)
def test_bad_pretrained_vectors_are_refused(array, message):
    with pytest.raises(gp.DataError, match=message):
        SMALL["cnn"]().load_embeddings(array)


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        (np.zeros(3, dtype=np.int64), None, r"ids of shape \(batch, length\).*\(3,\)"),
        (np.zeros((2, 0), dtype=np.int64), None, r"length at least 1.*\(2, 0\)"),
        (np.ones((2, 3), dtype=np.int64), np.ones((2, 4), dtype=bool), r"\(2, 3\).*\(2, 4\)"),
        (np.ones((2, 3), dtype=np.int64), np.ones((2, 3)), "booleans.*float64"),
    ],
)
def test_wrong_shapes_name_the_model(small, ids, mask, message):
    model = small()
    with pytest.raises(gp.ShapeError, match=type(model).__name__ + ".*" + message):
        model(ids, mask)


def test_max_norm_limits_the_rows_of_the_last_weight(device):
    model = TextCNN(12, 3, embedding_dim=4, widths=(2,), filters=2, max_norm=0.5)
    model.output.weight.data[...] *= 0.0
    model.output.weight.data[0, 0] = 0.25
    model.output.weight.data[1, :] = 3.0
    model.train()(*random_texts([3], 12))
    norms = np.sqrt((model.state_dict()["output.weight"] ** 2).sum(axis=1))
    np.testing.assert_allclose(norms, [0.25, 0.5, 0.0], rtol=1e-6)


def test_word_dropout_leaves_words_out_but_never_all(device):
    gp.manual_seed(0)
    model = FeedForwardClassifier(12, 2, embedding_dim=3, word_dropout=0.9).train()
    ids, mask = random_texts([1] * 20 + [8] * 20, 12)
    plain = model.eval()(ids, mask).numpy()
    thinned = model.train()(ids, mask).numpy()
    np.testing.assert_allclose(thinned[:20], plain[:20], rtol=1e-5)
    assert not np.allclose(thinned[20:], plain[20:], rtol=1e-5)


def _train(model, steps, ids, mask, labels):
    optimizer = gp.optim.Adam(model.parameters(), lr=0.01)
    loss_of = gp.nn.CrossEntropyLoss()
    losses = []
    for _ in range(steps):
        loss = loss_of(model(ids, mask), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", ["feedforward", "cnn"])
def test_learns_which_word_decides(name, device):
    if device == "emulated":
        pytest.skip("the emulator checks single operations; training on it takes minutes")
    gp.manual_seed(1)
    model = {
        "feedforward": lambda: FeedForwardClassifier(30, 2, embedding_dim=8, dropout=0.1, word_dropout=0.1),
        "cnn": lambda: TextCNN(30, 2, embedding_dim=8, filters=4),
    }[name]()
    ids, mask = random_texts(np.random.default_rng(2).integers(3, 12, 120), 30, seed=3, first=6)
    labels = np.arange(120) % 2
    ids[:, 1] = 4 + labels
    losses = _train(model, 150, ids, mask, labels)
    assert losses[-1] < 0.2 < losses[0]
    assert (model.eval()(ids, mask).numpy().argmax(axis=1) == labels).all()


@pytest.mark.parametrize("name", ["feedforward", "cnn"])
def test_the_same_seed_trains_the_same_bits(name):
    def run():
        gp.manual_seed(5)
        model = {
            "feedforward": lambda: FeedForwardClassifier(30, 2, hidden=(6,), dropout=0.5, word_dropout=0.3),
            "cnn": lambda: TextCNN(30, 2, embedding_dim=8, filters=4, embedding_dropout=0.2),
        }[name]()
        ids, mask = random_texts([5, 3, 9, 7], 30)
        return _train(model, 8, ids, mask, np.array([0, 1, 1, 0])), model.state_dict()

    (first_losses, first), (second_losses, second) = run(), run()
    assert first_losses == second_losses
    for name_ in first:
        np.testing.assert_array_equal(first[name_], second[name_])
