"""Weights under PyTorch's names and in its layout: what fits and what does not, without PyTorch."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import interop, nn
from gpuprop.models import Seq2Seq, TextCNN
from gpuprop.nn.module import Module

GUIDE = Path(__file__).parents[1] / "docs" / "interop.md"


class Pair(Module):
    """A table used twice, and a convolution."""

    def __init__(self):
        self.table = nn.Embedding(5, 4)
        self.conv = nn.Conv1d(4, 6, kernel_size=3)
        self.output = nn.Linear(4, 5)
        self.output.weight = self.table.weight


class Like:
    """A tensor as PyTorch's are seen from here: reached through detach, cpu and numpy only."""

    def __init__(self, array, done=()):
        self.array, self.done, self.shape = array, done, array.shape

    def detach(self):
        return Like(self.array, (*self.done, "detach"))

    def cpu(self):
        return Like(self.array, (*self.done, "cpu"))

    def numpy(self):
        assert self.done == ("detach", "cpu")
        return self.array


def values_of(model):
    return {name: array.copy() for name, array in model.state_dict().items()}


def test_a_convolution_is_turned(device):
    conv = nn.Conv1d(4, 6, kernel_size=3)
    weight = np.arange(72, dtype=np.float32).reshape(6, 4, 3)  # (out, in, kernel), PyTorch's
    interop.from_torch({"weight": Like(weight), "bias": Like(np.ones(6))}, conv)
    mine = conv.state_dict()
    assert conv.weight.shape == (6, 3, 4)
    assert mine["weight"][5, 2, 1] == weight[5, 1, 2]
    assert np.array_equal(mine["weight"], weight.swapaxes(1, 2))
    assert conv.weight.device == gp.get_device()
    back = interop.to_torch(conv)
    assert np.array_equal(back["weight"], weight)
    assert back["weight"].flags.c_contiguous
    assert back["weight"].flags.writeable


def test_a_model_keeps_its_type_and_its_copy(device):
    layer = nn.Linear(3, 2)
    weight, bias = np.ones((2, 3)), np.zeros(2)
    interop.from_torch({"weight": weight, "bias": gp.tensor(bias)}, layer)
    weight[...] = 7
    assert layer.weight.dtype == np.float32
    assert np.array_equal(layer.state_dict()["weight"], np.ones((2, 3)))
    interop.to_torch(layer)["weight"][...] = 7
    assert np.array_equal(layer.state_dict()["weight"], np.ones((2, 3)))


@pytest.mark.parametrize(
    "build", [lambda: TextCNN(9, 2, embedding_dim=4), lambda: Seq2Seq(9, 8, 4, 4, tied="target")]
)
def test_there_and_back_through_a_file(build, tmp_path):
    gp.manual_seed(1)
    model = build()
    gp.save(interop.to_torch(model), tmp_path / "model.safetensors")
    gp.manual_seed(2)
    other = build()
    assert interop.from_torch(gp.load(tmp_path / "model.safetensors"), other) == ([], [])
    expected = model.state_dict()
    for name, array in other.state_dict().items():
        assert np.array_equal(array, expected[name])


def test_tied_weights_come_under_any_name_and_leave_under_all():
    model = Pair()
    state = interop.to_torch(model)
    assert list(state) == ["table.weight", "conv.weight", "conv.bias", "output.weight", "output.bias"]
    new = np.full((5, 4), 3.0, np.float32)
    for name in ("table.weight", "output.weight"):
        alone = {n: a for n, a in state.items() if n not in ("table.weight", "output.weight")}
        new += 1
        assert interop.from_torch({**alone, name: new}, model) == ([], [])
        assert np.array_equal(model.state_dict()["table.weight"], new)
    with pytest.raises(gp.CheckpointError, match=r"table\.weight and output\.weight differ.*tied"):
        interop.from_torch({**state, "output.weight": state["output.weight"] + 1}, model)


def test_names_lead_there_and_back():
    model = Pair()
    names = {"module": "", "module.body.filters": "conv", "module.head": "output", "old": None}
    theirs = interop.to_torch(model, names)
    assert list(theirs) == [
        "module.table.weight", "module.body.filters.weight", "module.body.filters.bias",
        "module.head.weight", "module.head.bias",
    ]  # fmt: skip
    doubled = {name: 2 * array for name, array in theirs.items()}
    assert interop.from_torch({**doubled, "old.steps": np.zeros(())}, model, names) == ([], [])
    for name, array in interop.to_torch(model, names).items():
        assert np.array_equal(array, doubled[name])


def test_a_name_is_moved_whole():
    layer = nn.Linear(3, 2)
    state = interop.to_torch(layer)
    named = {f"head.{name}": array for name, array in state.items()}
    assert interop.from_torch(named, layer, {"head": ""}) == ([], [])
    with pytest.raises(gp.CheckpointError, match=r"unexpected: head\.weight"):
        interop.from_torch(named, layer, {"hea": ""})
    assert list(interop.to_torch(layer, {"w": "weight"})) == ["w", "bias"]


def test_names_that_lead_astray_are_refused():
    with pytest.raises(ValueError, match=r"from conv\.weight to conv\.weight, and from there to output"):
        interop.to_torch(Pair(), {"conv": "output"})
    state = interop.to_torch(nn.Linear(3, 2))
    with pytest.raises(gp.CheckpointError, match="bias and b both are bias"):
        interop.from_torch({**state, "b": state["bias"]}, nn.Linear(3, 2), {"b": "bias"})


def test_misfits_are_named_and_change_nothing():
    model = Pair()
    before, state = values_of(model), interop.to_torch(model)
    wrong = {**state, "conv.weight": np.zeros((6, 3, 4)), "table.weight": state["table.weight"] + 1}
    message = r"conv\.weight has shape \(6, 3, 4\), the model expects \(6, 4, 3\) in PyTorch's layout"
    with pytest.raises(gp.CheckpointError, match=message):
        interop.from_torch(wrong, model, strict=False)
    missing = {"filters" + n[4:] if n.startswith("conv") else n: a for n, a in state.items()}
    with pytest.raises(gp.CheckpointError) as raised:
        interop.from_torch(missing, model)
    assert "do not fit Pair: missing: conv.weight, conv.bias" in str(raised.value)
    assert "unexpected: filters.weight, filters.bias" in str(raised.value)
    for name, array in model.state_dict().items():
        assert np.array_equal(array, before[name])


def test_what_is_missing_can_be_left():
    model = Pair()
    before = values_of(model)
    state = {"conv.bias": np.full(6, 9.0), "extra": np.zeros(2)}
    missing, unexpected = interop.from_torch(state, model, strict=False)
    assert missing == ["table.weight", "conv.weight", "output.bias"]
    assert unexpected == ["extra"]
    assert np.array_equal(model.state_dict()["conv.bias"], np.full(6, 9.0))
    assert np.array_equal(model.state_dict()["conv.weight"], before["conv.weight"])


def test_what_is_no_dictionary_of_arrays_is_refused():
    with pytest.raises(TypeError, match=r"not Linear: call \.state_dict\(\)"):
        interop.from_torch(nn.Linear(3, 2), nn.Linear(3, 2))
    with pytest.raises(gp.CheckpointError, match=r"model is of type dict, not an array.*checkpoint"):
        interop.from_torch({"model": {}}, nn.Linear(3, 2))


@pytest.mark.parametrize("through_a_file", [False, True])
def test_half_precision_is_read(through_a_file, tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("ml_dtypes")
    peer, layer = torch.nn.Linear(3, 2).to(torch.bfloat16), nn.Linear(3, 2)
    state = peer.state_dict()
    if through_a_file:
        pytest.importorskip("safetensors.torch").save_file(state, tmp_path / "half.safetensors")
        state = gp.load(tmp_path / "half.safetensors")
    interop.from_torch(state, layer)
    assert layer.weight.dtype == np.float32
    assert np.array_equal(layer.state_dict()["weight"], peer.weight.detach().float().numpy())


def test_a_file_that_holds_tied_weights_once_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    peer, model = torch.nn.Module(), Pair()
    peer.table, peer.conv = torch.nn.Embedding(5, 4), torch.nn.Conv1d(4, 6, 3)
    peer.output = torch.nn.Linear(4, 5)
    peer.output.weight = peer.table.weight
    pytest.importorskip("safetensors.torch").save_model(peer, str(tmp_path / "model.safetensors"))
    state = gp.load(tmp_path / "model.safetensors")
    assert len(state) == 4
    assert interop.from_torch(state, model) == ([], [])
    for name, array in interop.to_torch(model).items():
        assert np.array_equal(array, peer.state_dict()[name].numpy())


def test_pytorch_is_never_imported():
    code = (
        "import sys, gpuprop as gp; layer = gp.nn.Linear(3, 2)\n"
        "gp.interop.from_torch(gp.interop.to_torch(layer), layer); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not GUIDE.exists(), reason="the source archive holds no guide")
def test_the_guide_runs(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    names = {}
    for block in blocks:
        exec(block, names)
    assert (tmp_path / "ours.safetensors").exists()
