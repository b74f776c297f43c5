"""Kernel declarations as they are read from source, and arguments as they are fitted to them."""

from __future__ import annotations

import numpy as np
import pytest

from gpuprop.backend.signatures import fit_arguments, parse_kernels, split_arguments
from gpuprop.errors import KernelError

SOURCE = """
// __global__ void commented_out(int a);
#define LATER __global__ void from_a_macro(int a)
using Size = long long;
typedef unsigned int Count;
template <typename T, int TILE = 8, typename Acc = float>
__global__ void __launch_bounds__(TILE * (2 + 2)) scale(
    const T* __restrict__ x, T *y, Acc factor, Size n, Count m,
    const Acc sums[], unsigned char flag /* , int c */) {}
extern "C" __global__ void plain(
    double* const out, const volatile unsigned long long a, __half h, struct Pair p, bool b) {}
__global__ void nothing() {}
void __global__ void_first(size_t n) {}
"""


def dtypes(expression):
    parameters = parse_kernels(SOURCE)[expression.partition("<")[0]].bind(expression)
    return [(p.name, ("*" if p.pointer else "") + str(p.dtype), p.const) for p in parameters]


def test_finds_the_kernels():
    assert list(parse_kernels(SOURCE)) == ["scale", "plain", "nothing", "void_first"]


def test_binds_template_arguments_defaults_and_aliases():
    assert dtypes("scale<__nv_bfloat16, 16, double>") == [
        ("x", "*bfloat16", True),
        ("y", "*bfloat16", False),
        ("factor", "float64", False),
        ("n", "int64", False),
        ("m", "uint32", False),
        ("sums", "*float64", True),
        ("flag", "uint8", False),
    ]
    assert dtypes("scale<int>")[2] == ("factor", "float32", False)


def test_plain_kernels():
    assert dtypes("plain") == [
        ("out", "*float64", False),
        ("a", "uint64", True),
        ("h", "float16", False),
        ("p", "None", False),
        ("b", "bool", False),
    ]
    assert dtypes("nothing") == []
    assert dtypes("void_first") == [("n", "uint64", False)]


def test_tables_of_pointers_are_addresses():
    source = "__global__ void f(T** a, const T* const* __restrict__ b, const T* c[], float d[][4], int* e) {}"
    parameters = parse_kernels(source)["f"].bind("f")
    assert [(p.name, p.dtype, p.pointer, p.const) for p in parameters] == [
        ("a", "uint64", True, False),
        ("b", "uint64", True, True),
        ("c", "uint64", True, False),
        ("d", "float32", True, False),
        ("e", "int32", True, False),
    ]


def test_commas_inside_brackets_do_not_split():
    assert split_arguments("a<b, c>, d(e, f), g") == ["a<b, c>", "d(e, f)", "g"]


def fit(*args, expression="scale<float>"):
    return fit_arguments("scale", parse_kernels(SOURCE)["scale"].bind(expression), args)


X = np.zeros(4, np.float32)


def test_numbers_become_exactly_the_parameters_type():
    fitted = fit(X, X, 2, 3, np.int64(4), None, True)
    assert [type(value) for value in fitted[2:5]] == [np.float32, np.int64, np.uint32]
    assert fitted[5] is None
    assert type(fitted[6]) is np.uint8
    assert fitted[0] is X


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((X, X, 2), r"takes 7 arguments \(const float\* x, .*\), got 3"),
        (
            (X.astype(np.float64), X, 2, 3, 4, X, 1),
            r"argument 0 \(const float\* x\) takes float32, got .* float64",
        ),
        ((X[::2], X, 2, 3, 4, X, 1), "argument 0 .* not C-contiguous"),
        ((2.0, X, 2, 3, 4, X, 1), "argument 0 .* takes an array, got float 2.0"),
        ((X, X, X, 3, 4, X, 1), r"argument 2 \(float factor\) takes a number, got an array"),
        ((X, X, None, 3, 4, X, 1), "argument 2 .* takes a number, got None"),
        ((X, X, 2, 3.0, 4, X, 1), "argument 3 .* takes int64, got the float 3.0"),
        ((X, X, 2, 2**63, 4, X, 1), "argument 3 .* 9223372036854775808 is outside"),
        ((X, X, 2, 3, -1, X, 1), "argument 4 .* -1 is outside 0..4294967295"),
        ((X, X, 2, 3, 4, X, 256), "argument 6 .* 256 is outside 0..255"),
        ((X, X, "2", 3, 4, X, 1), "argument 2 .* takes a number of type float32, got str"),
    ],
)
def test_what_does_not_fit_is_refused(args, words):
    with pytest.raises(KernelError, match=words):
        fit(*args)


def test_read_only_arrays_may_be_read_but_not_written():
    frozen = X.copy()
    frozen.flags.writeable = False
    fit(frozen, X, 2, 3, 4, frozen, 1)
    with pytest.raises(
        KernelError, match=r"argument 1 \(float\* y\) is written to, but the array is read-only"
    ):
        fit(X, frozen, 2, 3, 4, X, 1)


def test_types_that_are_not_known_take_numpy_scalars_only():
    pair = np.zeros(1, [("a", "i4"), ("b", "i4")])[0]
    parameters = parse_kernels(SOURCE)["plain"].bind("plain")
    out = np.zeros(1)
    assert fit_arguments("plain", parameters, (out, 1, 0.5, pair, False))[3] is pair
    with pytest.raises(KernelError, match="pass a NumPy scalar"):
        fit_arguments("plain", parameters, (out, 1, 0.5, 7, False))


def test_without_a_declaration_python_numbers_are_refused():
    assert fit_arguments("f", None, (X, np.int32(3), None)) == [X, np.int32(3), None]
    with pytest.raises(KernelError, match="argument 1 has a type unknown here"):
        fit_arguments("f", None, (X, 3))
