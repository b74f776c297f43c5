"""Count what a training step sends: as gpuprop counts it, and as the loopback device of this machine does."""

import sys

import numpy as np
from ranks import answer

import gpuprop as gp
from gpuprop.parallel.data_parallel import GRADIENTS

STEPS = 4


def sent_by_all():
    """Bytes that have left by the loopback device."""
    with open("/proc/net/dev") as file:
        found = next(line for line in file if line.strip().startswith("lo:"))
    return int(found.split(":")[1].split()[8])


group = gp.parallel.init()
gp.manual_seed(1)
model = gp.nn.Sequential(gp.nn.Linear(500, 1200), gp.nn.ReLU(), gp.nn.Linear(1200, 7))
optimizer = gp.optim.SGD(model.parameters(), lr=0.1)
parallel = gp.parallel.DataParallel(model, optimizer, *sys.argv[2:])
x, y = np.ones((4, 500), np.float32), np.zeros(4, np.int64)
counts = []
for _ in range(STEPS + 1):
    optimizer.zero_grad()
    parallel.backward(lambda: gp.nn.CrossEntropyLoss()(model(x), y), rows=4)
    optimizer.step()
    group.barrier()
    counts.append((group.traffic.payload[GRADIENTS], group.traffic.sent(GRADIENTS), sent_by_all()))
    group.barrier()
answer(sys.argv[1], group.rank, {"counts": counts, "bytes": sum(4 * p.size for p in model.parameters())})
