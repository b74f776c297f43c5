"""A CUDA kernel of your own, from its formula to a training run: root mean square normalization.

python examples/custom_kernel.py --device cpu         # the formula, in NumPy
python examples/custom_kernel.py --device emulated    # the kernels on the CPU, checked
python examples/custom_kernel.py --device cuda        # the kernels, on a GPU
"""

import argparse
import contextlib
import re

import numpy as np

import gpuprop as gp
from gpuprop import nn
from gpuprop.backend import emulator

THREADS = 128

SOURCE = """
constexpr int THREADS = 128;

// The sum of v over the block. Every thread must call it.
template <typename T> __device__ T block_sum(T v) {
  __shared__ T part[THREADS / 32];
  for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
  __syncthreads();
  v = 0;
  for (int warp = 0; warp < THREADS / 32; warp++) v += part[warp];
  __syncthreads();  // part is free for the next sum
  return v;
}

// y = gain x r,  r = (mean of x² + eps)^-1/2: one block a row.
template <typename T> __global__ void __launch_bounds__(THREADS)
rms_norm_forward(const T* __restrict__ x, const T* __restrict__ gain, T* __restrict__ y, T* __restrict__ r,
                 int columns, T eps) {
  const long long start = (long long)blockIdx.x * columns;
  T squares = 0;
  for (int c = threadIdx.x; c < columns; c += THREADS) squares += x[start + c] * x[start + c];
  const T scale = T(1) / sqrt(block_sum(squares) / columns + eps);
  for (int c = threadIdx.x; c < columns; c += THREADS) y[start + c] = gain[c] * x[start + c] * scale;
  if (threadIdx.x == 0) r[blockIdx.x] = scale;
}

// dx = r gain dy - x r³ / columns · sum of (gain dy x) over the row
template <typename T> __global__ void __launch_bounds__(THREADS)
rms_norm_backward_x(const T* __restrict__ dy, const T* __restrict__ x, const T* __restrict__ gain,
                    const T* __restrict__ r, T* __restrict__ dx, int columns) {
  const long long start = (long long)blockIdx.x * columns;
  T dot = 0;
  for (int c = threadIdx.x; c < columns; c += THREADS) dot += gain[c] * dy[start + c] * x[start + c];
  const T scale = r[blockIdx.x], shared_part = block_sum(dot) * scale * scale * scale / columns;
  for (int c = threadIdx.x; c < columns; c += THREADS)
    dx[start + c] = scale * gain[c] * dy[start + c] - x[start + c] * shared_part;
}

// dgain = sum of dy x r over the rows: one thread a column, so always in the same order.
template <typename T> __global__ void __launch_bounds__(THREADS)
rms_norm_backward_gain(const T* __restrict__ dy, const T* __restrict__ x, const T* __restrict__ r,
                       T* __restrict__ dgain, int rows, int columns) {
  const int c = blockIdx.x * THREADS + threadIdx.x;
  if (c >= columns) return;
  T sum = 0;
  for (int row = 0; row < rows; row++) {
    const long long at = (long long)row * columns + c;
    sum += dy[at] * x[at] * r[row];
  }
  dgain[c] = sum;
}
"""
TYPES = {"float32": "float", "float64": "double"}
KERNELS = gp.kernels.load(
    SOURCE,
    names=[f"{name}<{t}>" for name in re.findall(r"^(rms_norm\w+)\(", SOURCE, re.M) for t in TYPES.values()],
)


class RMSNorm(gp.Op):
    """y = gain x r, r = (mean x² + eps)^(-1/2) over the last axis (Zhang and Sennrich 2019, equation 4)

    dx = r gain dy - x r³ mean(gain dy x)        dgain = Σ_rows dy x r
    """

    @staticmethod
    def forward(ctx, x, gain, *, eps):
        xp = gp.get_xp(x)
        if gp.kernels.usable(x):
            rows, columns = x.size // x.shape[-1], x.shape[-1]
            y, r = xp.empty_like(x), xp.empty((rows, 1), x.dtype)
            KERNELS[f"rms_norm_forward<{TYPES[x.dtype.name]}>"](rows, THREADS, (x, gain, y, r, columns, eps))
        else:
            r = 1 / xp.sqrt((x * x).mean(-1, keepdims=True) + eps)
            y = gain * x * r
        ctx.save(x, gain, r)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, gain, r = ctx.saved
        xp = gp.get_xp(x)
        if gp.kernels.usable(x):
            rows, columns = x.size // x.shape[-1], x.shape[-1]
            c_type = TYPES[x.dtype.name]
            dx, dgain, dy = xp.empty_like(x), xp.empty_like(gain), xp.ascontiguousarray(dy)
            KERNELS[f"rms_norm_backward_x<{c_type}>"](rows, THREADS, (dy, x, gain, r, dx, columns))
            blocks = -(-columns // THREADS)
            KERNELS[f"rms_norm_backward_gain<{c_type}>"](blocks, THREADS, (dy, x, r, dgain, rows, columns))
            return dx, dgain
        dx = r * gain * dy - x * r**3 * (gain * dy * x).mean(-1, keepdims=True)
        return dx, (dy * x * r).reshape(-1, x.shape[-1]).sum(0)


class Model(nn.Module):
    """A classifier of points in the plane: is it inside the ring?"""

    def __init__(self):
        self.hidden = nn.Linear(2, 160)
        self.gain = gp.Parameter(np.ones(160, np.float32))
        self.out = nn.Linear(160, 2)

    def forward(self, x):
        return self.out(RMSNorm.apply(self.hidden(x), self.gain, eps=1e-6).relu())


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu, emulated or cuda (default: cpu)")
    parser.add_argument("--steps", type=int, default=60)
    args = parser.parse_args()
    gp.set_device(args.device)
    gp.manual_seed(1)

    # 1. The gradients against finite differences, in float64; emulated kernels also under the checker.
    for order in emulator.ORDERS if args.device == "emulated" else ("as it comes",):
        checked = (
            emulator.options(mode="check", order=order)
            if args.device == "emulated"
            else contextlib.nullcontext()
        )
        with checked:
            rng = np.random.default_rng(0)
            inputs = [rng.standard_normal((2, 130)), rng.standard_normal(130)]
            error = gp.gradcheck(lambda x, gain: RMSNorm.apply(x, gain, eps=1e-6), inputs)
        print(f"gradients agree with finite differences to {error:.0e} (order: {order})")

    # 2. A short training.
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (512, 2)).astype(np.float32)
    inside = (np.abs(np.hypot(*points.T) - 0.6) < 0.25).astype(np.int64)
    model = Model()
    optimizer = gp.optim.Adam(model.parameters(), lr=1e-2)
    loss_of = nn.CrossEntropyLoss()
    for step in range(1, args.steps + 1):
        rows = rng.integers(0, len(points), 128)
        loss = loss_of(model(gp.tensor(points[rows])), inside[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 1 or step % 20 == 0:
            print(f"step {step}: loss {loss.item():.3f}")
    with gp.no_grad():
        right = (model(gp.tensor(points)).numpy().argmax(1) == inside).mean()
    print(f"accuracy: {right:.2f}")


if __name__ == "__main__":
    main()
