"""Train on two ranks whose GPUs are fake, with gradients and losses moved by the NCCL transport."""

import sys

import fake_nccl
import models
import numpy as np
import pytest
from fake_cuda import installed
from ranks import answer

import gpuprop as gp
from gpuprop.parallel import Group

out, steps = sys.argv[1], int(sys.argv[2])


def options_of(more):
    values = dict(entry.split("=") for entry in more)
    if "capture" in values:
        return {"capture": values["capture"] == "yes"}
    return {n: v if n in ("gradient_type", "precision") else int(v) for n, v in values.items()}


found = {}
with pytest.MonkeyPatch.context() as patch, installed(patch) as machine:
    cupy = sys.modules["cupy"]
    fake_nccl.install(cupy, patch)
    current = sys.modules[gp.parallel.init.__module__]
    patch.setattr(current, "device_of_rank", lambda name, place: "cuda:0")  # each rank its own machine
    models.train("feedforward", "float32", steps, capture=False)
    found["waits alone"] = len(machine.waits)
    group = gp.parallel.init("cuda")
    for family in sys.argv[3:]:
        name, *more = family.split(":")
        machine.waits.clear()
        losses, trainer = models.train(name, "float32", steps, parallel=True, **options_of(more))
        kinds = sorted({(e[0], e[4]) for e in fake_nccl.log if e[0].startswith("nccl")})
        graph = trainer.device_step.graph
        found[family] = {
            "graphs": None if graph is None else [graph.ran, graph.captured, graph.replayed],
            "in graphs": sum(g.graph.names.count("ncclAllReduce") for g in graph._graphs.values() if g.graph)
            if graph
            else 0,
            "payload": group.traffic.payload["gradients"],
            "losses": losses, "device": str(trainer.device), "kinds": kinds,
            "waits": len(machine.waits), "arrays": len(trainer.model.state_dict()),
        }  # fmt: skip

    # One step's all-reduce while a stream is captured, and what its replays do.
    stream = cupy.cuda.Stream(non_blocking=True)
    x = cupy.asarray(np.full(6, 1.0 + group.rank, np.float32))
    with stream:
        stream.begin_capture()
        started = group.start_all_reduce(x)
        started.finish()
        graph = stream.end_capture()
    before = x.get().tolist()
    for _ in range(2):
        graph.launch()
    group._outstanding.clear()
    found["captured"] = {"names": graph.names, "before": before, "after": x.get().tolist()}
    host = np.array([1.0 + group.rank])
    found["host"] = [group.all_reduce(host)[0], group.all_reduce(x * 0 + group.rank, "max").get().tolist()[0]]
    gpus_only = Group(group.place, None, group.device)  # ranks that met without MPI
    found["gpus only"] = [gpus_only.all_reduce(host * 2)[0], gpus_only.gather_texts(f"rank {group.rank}")]
    answer(out, group.rank, found)
