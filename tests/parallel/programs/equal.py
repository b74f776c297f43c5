"""Each family given on the command line, once on rank 0 alone and then on all ranks."""

import sys

import numpy as np
from models import train
from ranks import answer

import gpuprop as gp
from gpuprop.parallel.environment import place_of

out, steps, cases = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
alone = {}


def options(case):
    family, dtype, *more = case.split(":")
    values = dict(entry.split("=") for entry in more)
    return family, dtype, {n: v if n in ("precision", "gradient_type") else int(v) for n, v in values.items()}


if place_of().rank == 0:
    for case in cases:
        family, dtype, more = options(case)
        more.pop("gradient_type", None)
        losses, trainer = train(family, dtype, steps, **more)
        alone[case] = losses, trainer.model.state_dict(), trainer.history

group = gp.parallel.init()
found = {}
for case in cases:
    family, dtype, more = options(case)
    losses, trainer = train(family, dtype, steps, parallel=True, **more)
    found[case] = {"losses": losses, "history": trainer.history}
    if case in alone:
        before, weights, history = alone[case]
        now = trainer.model.state_dict()
        found[case] |= {
            "alone": before,
            "alone_history": history,
            "worst": max(float(np.abs(now[n] - w).max()) for n, w in weights.items()),
        }
answer(out, group.rank, found)
