"""Optimizers against their equations written out plainly, schedules against their formulas."""

import math

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn, optim

rng = np.random.default_rng(1)
START = {"w": rng.standard_normal((3, 2)), "b": rng.standard_normal(2)}
GRADS = [{n: rng.standard_normal(a.shape) for n, a in START.items()} for _ in range(5)]


def run(make, **options):
    """Five steps over two parameters, one of them kept transposed."""
    w, b = gp.Parameter(START["w"].copy(), order=(1, 0)), gp.Parameter(START["b"].copy())
    optimizer = make([w, b], **options)
    for g in GRADS:
        optimizer.zero_grad()
        w.grad, b.grad = g["w"], g["b"]
        optimizer.step()
    return w.numpy(), b.numpy()


def reference(step):
    out = {}
    for name, p in START.items():
        p, memory = p.copy(), {}
        for t, g in enumerate(GRADS, 1):
            p = step(p, g[name], memory, t)
        out[name] = p
    return out["w"], out["b"]


def sgd(lr, mu=0.0, wd=0.0, nesterov=False):
    def step(p, g, s, t):
        g = g + wd * p
        s["v"] = mu * s.get("v", 0) + g
        return p - lr * (g + mu * s["v"] if nesterov else s["v"])

    return step


def adam(lr, b1, b2, eps, wd, decoupled):
    def step(p, g, s, t):
        if decoupled:
            p = p - lr * wd * p
        else:
            g = g + wd * p
        s["m"] = b1 * s.get("m", 0) + (1 - b1) * g
        s["v"] = b2 * s.get("v", 0) + (1 - b2) * g * g
        return p - lr * (s["m"] / (1 - b1**t)) / (np.sqrt(s["v"] / (1 - b2**t)) + eps)

    return step


def rmsprop(lr, alpha, eps, wd):
    def step(p, g, s, t):
        g = g + wd * p
        s["v"] = alpha * s.get("v", 0) + (1 - alpha) * g * g
        return p - lr * g / (np.sqrt(s["v"]) + eps)

    return step


def adagrad(lr, eps, wd):
    def step(p, g, s, t):
        g = g + wd * p
        s["v"] = s.get("v", 0) + g * g
        return p - lr * g / (np.sqrt(s["v"]) + eps)

    return step


CASES = {
    "sgd": (optim.SGD, {"lr": 0.1}, sgd(0.1)),
    "momentum": (optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}, sgd(0.1, 0.9, 0.1)),
    "nesterov": (
        optim.SGD,
        {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.1, "nesterov": True},
        sgd(0.1, 0.8, 0.1, True),
    ),
    "adam": (optim.Adam, {"lr": 0.1}, adam(0.1, 0.9, 0.999, 1e-8, 0, False)),
    "adam_decay": (
        optim.Adam,
        {"lr": 0.1, "betas": (0.8, 0.9), "weight_decay": 0.1},
        adam(0.1, 0.8, 0.9, 1e-8, 0.1, False),
    ),
    "adamw": (optim.AdamW, {"lr": 0.1, "weight_decay": 0.2}, adam(0.1, 0.9, 0.999, 1e-8, 0.2, True)),
    "rmsprop": (optim.RMSprop, {"lr": 0.1, "weight_decay": 0.1}, rmsprop(0.1, 0.99, 1e-8, 0.1)),
    "adagrad": (optim.Adagrad, {"lr": 0.1, "weight_decay": 0.1}, adagrad(0.1, 1e-10, 0.1)),
}


@pytest.mark.parametrize("case", CASES)
def test_five_steps_by_the_equation(case):
    make, options, step = CASES[case]
    for got, expected in zip(run(make, **options), reference(step), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-10)


def test_chunks_do_not_change_the_result(monkeypatch):
    whole = run(optim.AdamW, lr=0.1)
    monkeypatch.setattr("gpuprop.optim.optimizer.CHUNK", 3)
    for a, b in zip(run(optim.AdamW, lr=0.1), whole, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_parameter_without_a_gradient_is_left_alone():
    a, b, c = (gp.Parameter(np.ones(2)) for _ in range(3))
    optimizer = optim.AdamW([a, b, c], lr=0.1)
    a.grad, c.grad = np.ones(2), np.ones(2)
    optimizer.step()
    np.testing.assert_array_equal(b.numpy(), [1, 1])
    assert (a.numpy() < 1).all()
    assert (c.numpy() < 1).all()


def test_parameters_share_one_block_and_gradients_another():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    before = model.state_dict()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    block, grads = optimizer.arenas[0].data, optimizer.arenas[0].grads
    model(np.ones((1, 3), np.float32)).sum().backward()
    for name, p in model.named_parameters():
        assert np.shares_memory(p.data, block)
        assert np.shares_memory(p.grad, grads)
        np.testing.assert_array_equal(p.numpy(), before[name])
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_a_second_optimizer_takes_the_parameters_over():
    model = nn.Linear(3, 2)
    optim.SGD(model.parameters(), lr=0.1)
    second = optim.SGD(model.parameters(), lr=0.1)
    before = model.weight.numpy().copy()
    model(np.ones((1, 3), np.float32)).sum().backward()
    second.step()
    assert (model.weight.numpy() != before).all()


def test_groups_have_their_own_options():
    a, b = gp.Parameter(np.ones(2)), gp.Parameter(np.ones(2))
    optimizer = optim.SGD([{"params": [a], "lr": 1.0}, {"params": b}], lr=0.1)
    a.grad, b.grad = np.ones(2), np.ones(2)
    optimizer.step()
    np.testing.assert_allclose(a.numpy(), [0, 0])
    np.testing.assert_allclose(b.numpy(), [0.9, 0.9])


@pytest.mark.parametrize("make", [optim.SGD, optim.Adam, optim.AdamW, optim.RMSprop, optim.Adagrad])
def test_state_goes_on_bit_for_bit(make):
    options = {"lr": 0.1, **({"momentum": 0.9} if make is optim.SGD else {})}
    params = [gp.Parameter(START["w"].copy(), order=(1, 0)), gp.Parameter(START["b"].copy())]
    optimizer = make(params, **options)

    def step(optimizer, params, g):
        params[0].grad, params[1].grad = g["w"], g["b"]
        optimizer.step()
        optimizer.zero_grad()

    for g in GRADS[:3]:
        step(optimizer, params, g)
    saved = optimizer.state_dict()
    copies = [gp.Parameter(params[0].numpy().copy(), order=(1, 0)), gp.Parameter(params[1].numpy().copy())]
    other = make(copies, lr=0.5)
    other.load_state_dict(saved)
    for g in GRADS[3:]:
        step(optimizer, params, g)
        step(other, copies, g)
    for a, b in zip(params, copies, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    with pytest.raises(gp.CheckpointError, match="other parameters"):
        make([gp.Parameter(np.ones(3))], lr=0.1).load_state_dict(saved)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optim.SGD([], lr=0.1), "at least one"),
        (lambda: optim.SGD([{"lr": 0.1}]), "a dict with 'params'; got lr"),
        (lambda: optim.SGD([np.ones(2)], lr=0.1), "takes parameters, not ndarray"),
        (lambda: optim.SGD([p := gp.Parameter(np.ones(2)), p], lr=0.1), "twice"),
        (lambda: optim.SGD([gp.Parameter(np.ones(2))], lr=float("nan")), "lr must be a finite number"),
        (lambda: optim.Adam([gp.Parameter(np.ones(2))], lr=-1), "lr must be"),
        (lambda: optim.Adam([gp.Parameter(np.ones(2))], betas=(0.9, 1.0)), "betas"),
        (lambda: optim.Adam([{"params": [gp.Parameter(np.ones(2))], "momentum": 1}]), "no option momentum"),
        (lambda: optim.SGD([gp.Parameter(np.ones(2))], nesterov=True), "needs a momentum"),
        (lambda: optim.SGD([gp.Parameter(np.ones(2)), gp.Parameter(np.ones(2, np.float32))]), "one type"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_clipping_by_norm_scales_all_gradients_together():
    a, b = gp.Parameter(np.zeros((2, 2)), order=(1, 0)), gp.Parameter(np.zeros(2))
    shared = np.full((2, 2), 3.0)
    a.grad, b.grad = shared, np.full(2, 4.0)
    norm = optim.clip_grad_norm_([a, b], 1.0)
    total = math.sqrt(4 * 9 + 2 * 16)
    assert norm.item() == pytest.approx(total)
    np.testing.assert_allclose(a.grad, 3 / total, rtol=1e-6)
    np.testing.assert_allclose(b.grad, 4 / total, rtol=1e-6)
    np.testing.assert_array_equal(shared, 3)  # not ours: left alone
    optim.clip_grad_norm_([a, b], 100.0)
    np.testing.assert_allclose(a.grad, 3 / total, rtol=1e-6)
    assert optim.clip_grad_norm_([gp.Parameter(np.ones(1))], 1.0).item() == 0


def test_clipping_inside_an_arena_changes_it_in_place():
    p = gp.Parameter(np.zeros(2))
    optimizer = optim.SGD([p], lr=1.0)
    p.grad = np.array([3.0, 4.0])
    optim.clip_grad_norm_([p], 1.0)
    np.testing.assert_allclose(optimizer.arenas[0].grads, [0.6, 0.8], rtol=1e-6)


def test_clipping_by_value():
    p = gp.Parameter(np.zeros(3))
    p.grad = np.array([-5.0, 0.5, 5.0])
    optim.clip_grad_value_([p, gp.Parameter(np.ones(1))], 1.0)
    np.testing.assert_array_equal(p.grad, [-1, 0.5, 1])


def rates(schedule, n):
    seen = []
    for _ in range(n):
        seen.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.step()
    return seen


def optimizer():
    return optim.SGD([gp.Parameter(np.ones(1))], lr=2.0)


def test_schedules_by_their_formulas():
    np.testing.assert_allclose(rates(optim.StepLR(optimizer(), 2, 0.1), 5), [2, 2, 0.2, 0.2, 0.02])
    np.testing.assert_allclose(rates(optim.LinearWarmupLR(optimizer(), 4), 6), [0.5, 1, 1.5, 2, 2, 2])
    np.testing.assert_allclose(rates(optim.LinearWarmupLR(optimizer(), 2, 6), 7), [1, 2, 2, 1.5, 1, 0.5, 0])
    np.testing.assert_allclose(
        rates(optim.CosineLR(optimizer(), 4), 6),
        [2, 1 + math.cos(math.pi / 4), 1, 1 - math.cos(math.pi / 4), 0, 0],
        atol=1e-12,
    )
    np.testing.assert_allclose(rates(optim.CosineLR(optimizer(), 6, 2, 0.5), 7)[:3], [1, 2, 2])
    np.testing.assert_allclose(rates(optim.CosineLR(optimizer(), 6, 2, 0.5), 8)[-1], 1)
    np.testing.assert_allclose(
        rates(optim.InverseSquareRootLR(optimizer(), 4), 16),
        [min(t / 4, 2 / math.sqrt(t)) * 2 for t in range(1, 17)],
    )
    np.testing.assert_allclose(rates(optim.ConstantLR(optimizer()), 3), [2, 2, 2])


def test_reduce_on_plateau_waits_then_cuts():
    o = optimizer()
    schedule = optim.ReduceLROnPlateau(o, patience=1, decay=0.5)
    for value, lr in [(1.0, 2), (0.9, 2), (0.9, 2), (0.95, 1), (0.8, 1), (0.9, 1), (0.9, 0.5)]:
        schedule.step(value)
        assert o.param_groups[0]["lr"] == lr
    best = optim.ReduceLROnPlateau(optimizer(), mode="max", patience=0)
    best.step(0.1)
    best.step(0.05)
    assert best.optimizer.param_groups[0]["lr"] == 1


def test_a_schedule_goes_on_from_its_state():
    a = optim.CosineLR(optimizer(), 10, 3)
    expected = rates(a, 10)
    b = optim.CosineLR(optimizer(), 10, 3)
    rates(b, 4)
    c = optim.CosineLR(optimizer(), 10, 3)
    c.load_state_dict(b.state_dict())
    np.testing.assert_array_equal(rates(c, 6), expected[4:])


def test_each_step_lets_dropout_draw_anew():
    from gpuprop.backend import random

    before = random.state.step
    p = gp.Parameter(np.ones(1))
    o = optim.SGD([p], lr=0.1)
    p.grad = np.ones(1)
    o.step()
    assert random.state.step == before + 1


@pytest.mark.parametrize("make", [optim.Adam, optim.AdamW, optim.RMSprop, optim.Adagrad])
def test_float16_weights_without_a_gradient_stay(make):
    w = gp.Parameter(np.ones(3, np.float16))
    optimizer = make([w], weight_decay=0.0)
    w.grad = np.array([0.0, 1.0, -1.0], np.float16)
    optimizer.step()
    first, second, third = w.numpy()
    assert first == 1
    assert second < 1 < third
