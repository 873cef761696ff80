"""The kernels compute what reference.c defines: products to the bit, everything else up to rounding."""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from conftest import ROOT
from gguf import GGMLQuantizationType, quantize
from hypothesis import given, settings
from hypothesis import strategies as st
from native_library import load_reference, needs_compiler

from model.checkpoint.checkpoint import Checkpoint
from model.native.runner import _Cache, _Chunk, _Layer, _Matrix, _Model, _Norm
from model.native.weights import ROWS, Kind, pack

pytestmark = needs_compiler

TYPES = {Kind.Q4: "Q4_1", Kind.Q8: "Q8_0", Kind.F16: "F16", Kind.BF16: "BF16", Kind.F32: "F32"}
FLOATS = (Kind.F16, Kind.BF16, Kind.F32)
RELATIVE = 1e-6  # of norms, rotations and activations: what is summed in fp32, or approximated, has a few last bits
# The largest error of what attention gathers, of values whose standard deviation is 1
ATTENTION = {"float32": 1e-5, "int16": 5e-4}

# -O1 compiles in seconds; the optimization that it is given back fuses products and sums
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=all -g -O1 -fexpensive-optimizations"

Array = np.ndarray


@pytest.fixture(scope="module", params=["", "__AVX512F__"], ids=["as on this machine", "narrow"])
def library(request: pytest.FixtureRequest) -> ctypes.CDLL:
    """The library with either width of vectors; the machine may have the second one only."""
    return load_reference(without=request.param)


@pytest.fixture(
    scope="module", params=["", "__AVX512VNNI__", "__AVX512F__"], ids=["as on this machine", "fp32", "narrow"]
)
def arithmetic(request: pytest.FixtureRequest) -> ctypes.CDLL:
    """Likewise, and with either way to multiply weights of 4 and 8 bits."""
    return load_reference(without=request.param)


def address(array: Array) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


def normal(*shape: int, seed: int = 0, scale: float = 1) -> Array:
    return np.random.default_rng(seed).normal(scale=scale, size=shape).astype(np.float32)


class PackedMatrix:
    """A matrix of random numbers as the kernels read it."""

    def __init__(self, kind: Kind, n_rows: int, n_columns: int, seed: int = 0) -> None:
        numbers = normal(n_rows, n_columns, seed=seed)
        data = quantize(numbers, GGMLQuantizationType[TYPES[kind]]).view(np.uint8)
        weights = SimpleNamespace(encoding=lambda name: TYPES[kind], encoded_rows=lambda name, i, j: data[i:j])
        checkpoint = cast(Checkpoint, SimpleNamespace(path=Path("x.gguf"), weights=weights))
        self._packed = pack(checkpoint, "wte.weight", (n_rows, n_columns))
        assert self._packed.kind is kind
        self.n_rows, self.n_columns = n_rows, n_columns
        self.structure = _Matrix(kind, n_rows, n_columns, self._packed.data.ctypes.data)

    def multiply(self, library: ctypes.CDLL, x: Array) -> Array:
        """Return the products as they are defined, (n, n_rows)."""
        out = np.empty((len(x), self.n_rows), np.float32)
        library.plain_multiply(ctypes.byref(self.structure), address(x), len(x), address(out))
        return out

    def multiply_fast(self, library: ctypes.CDLL, x: Array, cuts: tuple[int, ...] = ()) -> Array:
        """Return what the kernels make of them, the groups of rows shared out at `cuts`."""
        n_groups = -(-self.n_rows // ROWS)
        out = np.full((len(x), n_groups * ROWS), np.nan, np.float32)
        for first, end in zip((0, *cuts), (*cuts, n_groups), strict=True):
            library.fast_multiply(ctypes.byref(self.structure), first, end, address(x), len(x), address(out))
        return out[:, : self.n_rows]


def assert_same_bits(actual: Array, expected: Array) -> None:
    np.testing.assert_array_equal(actual.view(np.int32), expected.view(np.int32))


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("n", [*range(1, 31), 36, 48, 61, 128])
def test_products_with_any_number_of_vectors_are_those_defined_bit_for_bit(
    arithmetic: ctypes.CDLL, kind: Kind, n: int
) -> None:
    matrix, x = PackedMatrix(kind, 70, 160), normal(n, 160, seed=n)
    assert_same_bits(matrix.multiply_fast(arithmetic, x), matrix.multiply(arithmetic, x))


@given(
    kind=st.sampled_from(Kind),
    n_rows=st.integers(1, 100),
    n_columns=st.integers(1, 300),
    n=st.integers(1, 40),
    data=st.data(),
)
@settings(deadline=None)
def test_products_of_any_shape_are_those_defined_bit_for_bit(
    arithmetic: ctypes.CDLL, kind: Kind, n_rows: int, n_columns: int, n: int, data: st.DataObject
) -> None:
    if kind not in FLOATS:
        n_columns = -(-n_columns // 32) * 32
    matrix, x = PackedMatrix(kind, n_rows, n_columns, seed=n_rows), normal(n, n_columns, seed=n)
    cut = data.draw(st.integers(0, -(-n_rows // ROWS)))
    assert_same_bits(matrix.multiply_fast(arithmetic, x, (cut,)), matrix.multiply(arithmetic, x))


@pytest.mark.parametrize("kind", [Kind.Q4, Kind.Q8])
@pytest.mark.parametrize("number", [0.0, -0.0, 1e-45, 2.0**-101, 2.0**-100, 1e-20, 1.0, 1e30, np.inf, np.nan])
def test_products_with_numbers_of_any_size_are_those_defined(
    arithmetic: ctypes.CDLL, kind: Kind, number: float
) -> None:
    matrix, x = PackedMatrix(kind, 40, 96), normal(3, 96)
    x[1, 32:64] *= np.float32(number)
    products = matrix.multiply_fast(arithmetic, x)
    np.testing.assert_array_equal(products, matrix.multiply(arithmetic, x))
    assert np.isfinite(products[[0, 2]]).all()
    assert np.isfinite(products[1]).all() == bool(np.isfinite(number))


@pytest.mark.parametrize("kind", [Kind.Q4, Kind.Q8])
def test_products_are_more_exact_than_sums_in_fp32_one_after_another(arithmetic: ctypes.CDLL, kind: Kind) -> None:
    matrix, x = PackedMatrix(kind, 64, 2048), normal(64, 2048, seed=1)
    weights = np.zeros((64, 2048), np.float32)
    for row in range(64):
        arithmetic.plain_add_row(ctypes.byref(matrix.structure), row, address(weights[row]))
    exact = x.astype(np.float64) @ weights.T.astype(np.float64)
    in_order = np.cumsum(x[:, None] * weights, axis=-1)[..., -1]  # not what BLAS does, which differs by processor
    assert in_order.dtype == np.float32
    assert np.std(matrix.multiply_fast(arithmetic, x) - exact) < np.std(in_order - exact)


@pytest.mark.parametrize("kind", FLOATS)
def test_every_finite_number_of_a_type_is_widened_exactly(arithmetic: ctypes.CDLL, kind: Kind) -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    numbers = bits.view(np.float16) if kind is Kind.F16 else (bits.astype(np.uint32) << 16).view(np.float32)
    numbers = numbers.astype(np.float32)
    data = {Kind.F16: bits, Kind.BF16: bits, Kind.F32: numbers}[kind].reshape(-1, 1)
    finite = np.isfinite(numbers)
    data = np.where(finite[:, None], data, 0)
    weights = SimpleNamespace(
        encoding=lambda name: kind.name, encoded_rows=lambda name, i, j: np.ascontiguousarray(data[i:j]).view(np.uint8)
    )
    packed = pack(cast(Checkpoint, SimpleNamespace(weights=weights)), "wte.weight", (2**16, 1))
    matrix, out = _Matrix(kind, 2**16, 1, packed.data.ctypes.data), np.empty(2**16, np.float32)
    arithmetic.fast_multiply(ctypes.byref(matrix), 0, 2**11, address(np.ones(1, np.float32)), 1, address(out))
    np.testing.assert_array_equal(out, np.where(finite, numbers, 0))


@pytest.mark.parametrize("kind", Kind)
def test_rows_of_an_embedding_are_its_weights(arithmetic: ctypes.CDLL, kind: Kind) -> None:
    matrix = PackedMatrix(kind, 70, 96 if kind not in FLOATS else 90)
    for row in (0, 1, 31, 32, 47, 69):
        rows = np.zeros((2, matrix.n_columns), np.float32)
        for add, out in zip((arithmetic.plain_add_row, arithmetic.fast_add_row), rows, strict=True):
            add(ctypes.byref(matrix.structure), row, address(out))
        assert_same_bits(*rows)
        assert rows.any()


@pytest.mark.parametrize("n", [1, 7, 16, 24, 64, 576, 1000])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("mean", [0, 3])
def test_norms_are_those_defined(library: ctypes.CDLL, n: int, has_bias: bool, mean: float) -> None:
    weight, bias, x = normal(n, seed=1), normal(n, seed=2), normal(n) + np.float32(mean)
    structure = _Norm(weight.ctypes.data, bias.ctypes.data if has_bias else None)
    out = np.empty((2, n), np.float32)
    for norm, row in zip((library.plain_norm, library.fast_norm), out, strict=True):
        norm(ctypes.byref(structure), ctypes.c_float(1e-5), address(x), n, address(row))
    np.testing.assert_allclose(out[1], out[0], rtol=RELATIVE, atol=2e-6)


@pytest.mark.parametrize("half", [1, 6, 8, 12, 32, 64])
def test_rotation_is_that_defined(library: ctypes.CDLL, half: int) -> None:
    angles = normal(half, scale=100)
    rotation = np.concatenate([np.cos(angles), np.sin(angles)])
    heads = normal(1, 2 * half).repeat(2, 0)
    library.plain_rotate(address(heads[0]), address(rotation), half)
    library.fast_rotate(address(heads[1]), address(rotation), half)
    np.testing.assert_allclose(heads[1], heads[0], rtol=0, atol=RELATIVE)


LADDER = np.concatenate([np.linspace(-100, 100, 4001), normal(3999), [0, -0.0, 1e-30, -1e-30, 1e30, -1e30, 88, -88]])


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh"])
def test_activations_are_those_defined(library: ctypes.CDLL, activation: str) -> None:
    index = ("silu", "gelu", "gelu_tanh").index(activation)
    values = LADDER.astype(np.float32)[None].repeat(2, 0)
    assert values.shape[1] % 16 == 8  # of AVX-512, the last vector reaches beyond
    values = np.pad(values, ((0, 0), (0, 8)))
    library.plain_activate(index, address(values[0]), values.shape[1])
    library.fast_activate(index, address(values[1]), values.shape[1])
    np.testing.assert_allclose(values[1], values[0], rtol=2e-6, atol=1e-6)


def test_exponential_is_that_of_the_c_library(library: ctypes.CDLL) -> None:
    x = np.linspace(-87, 88, 160_000, dtype=np.float32)[None].repeat(2, 0)
    library.plain_exponential(address(x[0]), x.shape[1])
    library.fast_exponential(address(x[1]), x.shape[1])
    np.testing.assert_allclose(x[1], x[0], rtol=3e-7)


def test_exponential_of_what_is_not_a_number_is_none(library: ctypes.CDLL) -> None:
    x = np.array([np.nan, -np.inf, np.inf, -1e30, 1e30, 0, -0.0, 1] * 2, np.float32)
    library.fast_exponential(address(x), 16)
    assert np.isnan(x[[0, 8]]).all()
    assert np.isfinite(np.delete(x, [0, 8])).all()
    np.testing.assert_array_equal(x[[5, 6]], 1)


class Attention:
    """One layer of attention over a cache whose memory is full of what must never be read."""

    def __init__(
        self, library: ctypes.CDLL, *, n_head: int, n_kv_head: int, head_dim: int, window: int = 0, is_short: bool
    ) -> None:
        self._library = library
        self._layers = (_Layer * 1)(_Layer(window=window))
        self._model = _Model(
            n_layer=1, n_head=n_head, n_kv_head=n_kv_head, head_dim=head_dim, n_embd=1, n_inner=1, layers=self._layers
        )
        self._n_blocks = 64
        library.parley_cache_bytes.restype = ctypes.c_size_t
        n_bytes = library.parley_cache_bytes(ctypes.byref(self._model), self._n_blocks, is_short)
        self._memory = np.full(n_bytes // 4, np.nan, np.float32)
        self._cache = _Cache(is_short, self._memory.ctypes.data)

    def numbers(self, n: int, scale: float = 1) -> tuple[Array, Array, Array]:
        """Random queries, keys and values of n tokens."""
        heads = (self._model.n_head, self._model.n_kv_head, self._model.n_kv_head)
        return cast(Any, tuple(normal(n, h, self._model.head_dim, seed=i, scale=scale) for i, h in enumerate(heads)))

    def plain(self, q: Array, k: Array, v: Array) -> Array:
        out = np.empty_like(q)
        self._library.plain_attend(ctypes.byref(self._model), len(q), *map(address, (q, k, v, out)))
        return out

    def fast(self, q: Array, k: Array, v: Array, *, n_at_once: int | None = None, seed: int = 0) -> Array:
        """The same through blocks in any order, so many tokens at a time."""
        table, out = np.random.default_rng(seed).permutation(self._n_blocks).astype(np.int32), np.empty_like(q)
        step = n_at_once or len(q)
        for start in range(0, len(q), step):
            rows = slice(start, start + step)
            chunk = _Chunk(len(q[rows]), start, 0, table.ctypes.data)
            arrays = [address(array[rows]) for array in (q, k, v, out)]
            failed = self._library.fast_attend(
                ctypes.byref(self._model), ctypes.byref(self._cache), ctypes.byref(chunk), *arrays
            )
            assert not failed
        return out


SHAPES = [(9, 3, 64), (4, 4, 16), (4, 2, 24), (14, 1, 8), (6, 3, 80), (2, 2, 4), (26, 2, 32)]


@pytest.mark.parametrize("kv_dtype", ATTENTION)
@pytest.mark.parametrize("window", [0, 1, 16, 100])
@pytest.mark.parametrize(("n_head", "n_kv_head", "head_dim"), SHAPES)
def test_attention_is_that_defined(
    library: ctypes.CDLL, n_head: int, n_kv_head: int, head_dim: int, window: int, kv_dtype: str
) -> None:
    attention = Attention(
        library,
        n_head=n_head,
        n_kv_head=n_kv_head,
        head_dim=head_dim,
        window=window,
        is_short=kv_dtype == "int16",
    )
    numbers = attention.numbers(300 if window else 70)
    expected = attention.plain(*numbers)
    np.testing.assert_allclose(attention.fast(*numbers), expected, rtol=0, atol=ATTENTION[kv_dtype])


@pytest.mark.parametrize("kv_dtype", ATTENTION)
def test_attention_over_a_long_context_is_that_defined(library: ctypes.CDLL, kv_dtype: str) -> None:
    attention = Attention(library, n_head=3, n_kv_head=1, head_dim=16, is_short=kv_dtype == "int16")
    numbers = attention.numbers(900)
    expected = attention.plain(*numbers)
    np.testing.assert_allclose(attention.fast(*numbers), expected, rtol=0, atol=ATTENTION[kv_dtype])


@given(
    n=st.integers(1, 600),
    n_at_once=st.integers(1, 600),
    seed=st.integers(0, 99),
    window=st.sampled_from([0, 1, 5, 16, 255, 256, 257]),
    is_short=st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_attention_in_chunks_is_that_of_the_whole_bit_for_bit(
    library: ctypes.CDLL, n: int, n_at_once: int, seed: int, window: int, is_short: bool
) -> None:
    attention = Attention(library, n_head=6, n_kv_head=2, head_dim=16, window=window, is_short=is_short)
    numbers = attention.numbers(n)
    whole = attention.fast(*numbers)
    assert_same_bits(attention.fast(*numbers, n_at_once=max(n_at_once, n // 20), seed=seed), whole)


@pytest.mark.parametrize("kv_dtype", ATTENTION)
@pytest.mark.parametrize(("window", "place"), [(0, 19), (4, 10), (16, 3), (300, 0)])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_what_is_not_finite_reaches_only_those_who_see_it(
    library: ctypes.CDLL, kv_dtype: str, window: int, place: int, number: float
) -> None:
    attention = Attention(library, n_head=6, n_kv_head=2, head_dim=16, window=window, is_short=kv_dtype == "int16")
    q, k, v = attention.numbers(40)
    sound = attention.fast(q, k, v)
    k[place], v[place] = number, number
    spoilt = attention.fast(q, k, v)
    seeing = slice(place, place + window if window else None)
    blind = np.ones(40, bool)
    blind[seeing] = False
    assert_same_bits(spoilt[blind], sound[blind])
    assert not np.isfinite(spoilt[seeing]).any()


@pytest.mark.parametrize("kv_dtype", ATTENTION)
def test_attention_with_scores_far_apart_is_that_defined(library: ctypes.CDLL, kv_dtype: str) -> None:
    attention = Attention(library, n_head=2, n_kv_head=1, head_dim=64, is_short=kv_dtype == "int16")
    q, k, v = attention.numbers(300)
    expected = attention.plain(30 * q, k, v)
    np.testing.assert_allclose(attention.fast(30 * q, k, v), expected, rtol=0, atol=60 * ATTENTION[kv_dtype])


@pytest.mark.slow
@pytest.mark.timeout(3600)  # GCC alone takes minutes
def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    libasan = subprocess.run(["cc", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not Path(libasan).exists():
        pytest.skip("no AddressSanitizer")
    compiler = tmp_path / "cc"
    compiler.write_text(f'#!/bin/sh\nunset LD_PRELOAD\nexec {shutil.which("cc")} "$@" {SANITIZERS}\n')
    compiler.chmod(0o700)
    options = {"ASAN_OPTIONS": "detect_leaks=0", "LD_PRELOAD": libasan, "XDG_CACHE_HOME": str(tmp_path)}
    files = [Path(__file__), Path(__file__).with_name("test_model_native_runner.py")]
    command = [sys.executable, "-m", "pytest", "-qs", "-p", "no:cacheprovider", *map(str, files)]
    result = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **options, "CC": str(compiler)}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
