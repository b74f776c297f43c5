"""What the public functions do on three ranks, and a loop of one's own with DataParallel."""

import sys
import types

import numpy as np
from models import to_type
from ranks import answer

import gpuprop as gp
from gpuprop import nn
from gpuprop.text import text_batches

ROWS = (5, 0, 3)  # of each rank in a step
WEIGHTS = (7.0, 0.0, 0.0)  # target tokens, say: the last rank's all do not count


def make():
    gp.manual_seed(4)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3))
    to_type(types.SimpleNamespace(model=model), np.float64)
    return model, gp.optim.Adam(model.parameters(), lr=0.1)


def data(step):
    rng = np.random.default_rng(step)
    return rng.standard_normal((8, 6)), rng.integers(0, 3, 8)


def alone(weighted):
    """The losses of one process that has all rows; weighted: only the first rank's count."""
    model, optimizer = make()
    losses = []
    for step in range(4):
        x, y = data(step)
        y = np.where(np.arange(8) < ROWS[0], y, -100) if weighted else y
        optimizer.zero_grad()
        loss = nn.CrossEntropyLoss()(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def together(rank, weighted):
    model, optimizer = make()
    parallel = gp.parallel.DataParallel(model, optimizer)
    start, losses = sum(ROWS[:rank]), []
    for step in range(4):
        x, y = (a[start : start + ROWS[rank]] for a in data(step))
        y = y if rank == 0 or not weighted else np.full_like(y, -100)
        optimizer.zero_grad()
        loss = parallel.backward(
            lambda x=x, y=y: nn.CrossEntropyLoss()(parallel(x), y),
            rows=ROWS[rank],
            weight=WEIGHTS[rank] if weighted else None,
        )
        optimizer.step()
        losses.append(loss.item())
    return losses, sorted(parallel.state_dict())


def unused(rank):
    """Which parameters have a gradient where one layer is used on rank 2 alone, and one nowhere."""
    gp.manual_seed(4)
    layers = [nn.Linear(2, 2) for _ in range(3)]
    model = nn.ModuleList(layers)
    optimizer = gp.optim.SGD(model.parameters(), lr=0.1)
    parallel = gp.parallel.DataParallel(model, optimizer)
    x = np.ones((1, 2))
    optimizer.zero_grad()
    parallel.backward(lambda: (layers[1](x) if rank == 2 else layers[0](x)).sum(), rows=1)
    return [None if p.grad is None else p.grad.tolist() for p in model.parameters()]


def own_batches(rank):
    """A Trainer over batches that each rank brings itself, more of them on some: all go on to the end."""
    gp.manual_seed(4)
    model = nn.Linear(6, 3)
    optimizer = gp.optim.SGD(model.parameters(), lr=0.1)
    mine = [{"x": data(k)[0], "y": data(k)[1]} for k in range((2, 0, 3)[rank])]
    trainer = gp.Trainer(
        model,
        lambda b: nn.CrossEntropyLoss()(model(b["x"]), b["y"]),
        optimizer,
        progress="off",
        parallel=True,
    )
    trainer.fit(mine, 2)
    return [trainer.state.step, trainer.history[-1]["train_loss"], float(model.weight.data.sum())]


def not_finite(rank, folder):
    """Rank 2's rows are not finite at step 3: all stop, with its finding and its batch."""
    gp.manual_seed(4)
    model = nn.Linear(6, 3)
    optimizer = gp.optim.SGD(model.parameters(), lr=0.1)
    batches = [{"x": data(k)[0], "y": data(k)[1]} for k in range(4)]
    if rank == 2:
        batches[2]["x"][1, 1] = np.inf
    options = {"progress": "off", "parallel": True, "run_folder": folder}
    trainer = gp.Trainer(model, lambda b: nn.CrossEntropyLoss()(model(b["x"]), b["y"]), optimizer, **options)
    try:
        trainer.fit(batches, 1)
    except gp.TrainingError as error:
        return str(error)


out = sys.argv[1]
group = gp.parallel.init("cpu")
rank = gp.parallel.rank()
found = {"rank": rank, "world_size": gp.parallel.world_size(), "local_rank": gp.parallel.local_rank()}
for dtype in ("float64", "float32", "float16", "int64", "uint8"):
    found[dtype] = gp.parallel.all_reduce(np.array([rank + 1, 2], dtype)).tolist()
found["max"] = gp.parallel.all_reduce(np.array([rank, -rank]), "max").tolist()
found["broadcast"] = gp.parallel.broadcast(np.full(2, rank, np.float32), 2).tolist()
found["gather"] = gp.parallel.all_gather(np.array([[rank, 9]])).tolist()
found["texts"] = group.gather_texts("é" * rank)
batches = text_batches([[4, 5], [4], [6, 7, 8]], None, 3, seed=0)
found["shard"] = [batch.index.tolist() for batch in gp.parallel.shard(batches)]
found["losses"], found["names"] = together(rank, weighted=False)
found["weighted"], _ = together(rank, weighted=True)
found["unused"] = unused(rank)
found["own batches"] = own_batches(rank)
found["not finite"] = not_finite(rank, out + "/run")
if rank == 0:
    found["alone"], found["alone weighted"] = alone(False), alone(True)
try:
    gp.Trainer(make()[0], None, make()[1])
except gp.DataError as error:
    found["apart"] = str(error)
gp.parallel.barrier()
answer(out, rank, found)
