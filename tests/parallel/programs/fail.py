"""Rank 1 does what the command line says, in the middle of a training."""

import os
import signal
import sys
import time
from pathlib import Path

import models

import gpuprop as gp

how = sys.argv[1]


class Failing(gp.Trainer):
    def _step(self, batches):
        if self.state.step == 3 and gp.parallel.rank() == 1:
            Path(sys.argv[2]).write_text(str(time.time()))
            if how == "raise":
                raise ValueError("a bug in the middle of a step")
            if how == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "hang":
                time.sleep(1000)
        return super()._step(batches)


if how == "version" and os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK")) == "1":
    sys.modules[gp.parallel.init.__module__].__version__ = "0.0.9"
gp.parallel.init()
if how == "interrupt" and gp.parallel.rank() == 1:
    raise KeyboardInterrupt
models.Recorder = Failing
if how == "weights":
    task = models.make_task("cnn")
    if gp.parallel.rank() == 1:
        task.model.output.bias.data[0] += 1e-6
    gp.parallel.DataParallel(task.model, gp.optim.Adam(task.model.parameters()))
if how == "together":
    raise gp.DataError("the same on every rank")
models.train("cnn", "float64", 1000, parallel=True)
