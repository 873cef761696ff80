"""What computes on the CPU: the kernels of decode.c, on the weights as they are in the file."""

import ctypes
import mmap
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from model.checkpoint.checkpoint import Checkpoint
from model.config import BLOCK_SIZE, GPTConfig
from model.engine.runner import Chunk, KVDType
from model.native.build import load_library
from model.native.weights import ROWS, pack, read_vector
from model.parameters import Shape, parameter_shapes
from model.rope import rope_frequencies, rope_magnitude
from model.sampling import Floats

SOURCE = Path(__file__).with_name("decode.c")

MAX_PADDING = 32  # numbers: what decode.c pads values to, with the widest vectors

ACTIVATIONS = ("silu", "gelu", "gelu_tanh")  # in the order of decode.c


class _Matrix(ctypes.Structure):
    _fields_ = [
        ("kind", ctypes.c_int32),
        ("n_rows", ctypes.c_int32),
        ("n_columns", ctypes.c_int32),
        ("data", ctypes.c_void_p),
    ]


class _Linear(ctypes.Structure):
    _fields_ = [("weight", _Matrix), ("bias", ctypes.c_void_p)]


class _Norm(ctypes.Structure):
    _fields_ = [("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p)]


_NORMS = ("ln_1", "ln_2", "q_norm", "k_norm")
_LINEARS = ("c_q", "c_k", "c_v", "c_proj", "c_gate", "c_up", "c_down")
_SIZES = ("vocab_size", "n_layer", "n_head", "n_kv_head", "head_dim", "n_embd", "n_inner")

# Where the parameters of a block go; the others have the same name in both places
_IN_LAYER = {"attn.c_proj": "c_proj", "mlp.c_proj": "c_down"}


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, _Norm) for name in _NORMS),
        *((name, _Linear) for name in _LINEARS),
        ("rotates", ctypes.c_int32),
        ("window", ctypes.c_int32),
    ]


class _Model(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in _SIZES),
        ("activation", ctypes.c_int32),
        ("norm_eps", ctypes.c_float),
        ("rope_magnitude", ctypes.c_float),
        ("frequencies", ctypes.c_void_p),
        *((name, _Matrix) for name in ("wte", "wpe", "lm_head")),
        ("ln_f", _Norm),
        ("layers", ctypes.POINTER(_Layer)),
    ]


class _Cache(ctypes.Structure):
    _fields_ = [("is_short", ctypes.c_int32), ("data", ctypes.c_void_p)]


class _Chunk(ctypes.Structure):
    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        ("start", ctypes.c_int32),
        ("n_logits", ctypes.c_int32),
        ("block_table", ctypes.c_void_p),
    ]


def unsupported(config: GPTConfig) -> str | None:
    """Say what of a network the kernels do not compute; None if they compute all of it."""
    return f"heads whose size is no multiple of 4 ({config.head_dim})" if config.head_dim % 4 else None


def position_bytes(config: GPTConfig, kv_dtype: KVDType) -> int:
    """Return how many bytes the keys and values of one position take, or a few more."""
    n_numbers = config.head_dim + -(-config.head_dim // MAX_PADDING) * MAX_PADDING  # of a key, and of a padded value
    n_bytes = 4 * n_numbers if kv_dtype == "float32" else 2 * n_numbers + 2 * 4  # a scale for each
    return config.n_layer * config.n_kv_head * n_bytes


@cache
def native_library() -> ctypes.CDLL:
    """Return the kernels, compiled if need be, once for this process; raises BuildError."""
    return _declare(load_library(SOURCE))


class NativeRunner:
    """Computes the chunks of a step in one call of decode.c.

    A sequence gets the same logits, bit for bit, whatever else is in the step and however it is cut into chunks.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        n_blocks: int,
        *,
        n_threads: int,
        kv_dtype: KVDType = "int16",
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Load the weights; calls `progress` with the number of tensors done and of all.

        Raises BuildError without a library, CheckpointError, MemoryError.
        """
        if n_blocks >= 2**31:  # more than a number of decode.c holds
            raise MemoryError(f"too little memory for {n_blocks:,} blocks of keys and values")
        self._library = native_library()
        self._n_blocks = n_blocks
        self._vocab_size = checkpoint.config.vocab_size
        # what a table of learned positions holds; rotary ones go on
        self._n_ctx = checkpoint.config.n_ctx if checkpoint.config.rope is None else 2**31 - 1
        self._weights = _Weights(checkpoint, progress)  # the memory that the library reads
        is_short = kv_dtype == "int16"
        n_bytes = self._library.parley_cache_bytes(self._weights.model, n_blocks, is_short)
        self._keys_and_values = _reserve(n_bytes)
        self._cache = _Cache(is_short, _address(self._keys_and_values))
        self._engine = self._library.parley_open(self._weights.model, self._cache, n_threads)
        if not self._engine:
            raise MemoryError("too little memory, or too few threads, for the native kernels")
        self._logits = self._new_logits(1)
        weakref.finalize(self, self._library.parley_close, self._engine)

    @property
    def n_blocks(self) -> int:
        """How many blocks of BLOCK_SIZE positions there are."""
        return self._n_blocks

    def run(self, chunks: Sequence[Chunk]) -> Floats:
        """Compute the chunks of different sequences; returns the wanted logits, (sum of n_logits, V), in fp32.

        Raises ValueError for chunks that make no sense: the kernels would read and write anywhere.
        """
        token_ids = np.array([token_id for chunk in chunks for token_id in chunk.token_ids], np.int32)
        tables = [np.array(chunk.block_table, np.int32) for chunk in chunks]
        self._check(chunks, tables, token_ids)
        structures = (_Chunk * len(chunks))(
            *(
                _Chunk(len(chunk.token_ids), chunk.start, chunk.n_logits, _address(table))
                for chunk, table in zip(chunks, tables, strict=True)
            )
        )
        n_logits = sum(chunk.n_logits for chunk in chunks)
        if n_logits > len(self._logits):
            self._logits = self._new_logits(n_logits)
        failed = self._library.parley_step(
            self._engine, len(chunks), structures, _address(token_ids), _address(self._logits)
        )
        if failed:
            raise MemoryError("too little memory for a step of the native kernels")
        return self._logits[:n_logits, : self._vocab_size]

    def copy_block(self, source: int, target: int) -> None:
        """Give a block the keys and values of another; raises ValueError for one that does not exist."""
        if not (0 <= source < self._n_blocks and 0 <= target < self._n_blocks):
            raise ValueError(f"blocks must lie between 0 and {self._n_blocks - 1}, got {source} and {target}")
        self._library.parley_copy_block(self._engine, source, target)

    def _check(self, chunks: Sequence[Chunk], tables: Sequence[np.ndarray], token_ids: np.ndarray) -> None:
        if not 0 <= token_ids.min() <= token_ids.max() < self._vocab_size:
            raise ValueError(f"token_ids must lie between 0 and {self._vocab_size - 1}")
        for chunk, table in zip(chunks, tables, strict=True):
            n_tokens, n_positions = len(chunk.token_ids), min(len(table) * BLOCK_SIZE, self._n_ctx)
            if not (n_tokens and chunk.start >= 0 and chunk.start + n_tokens <= n_positions):
                raise ValueError(f"positions must lie below {n_positions}, got {n_tokens} from {chunk.start} on")
            if not 0 <= chunk.n_logits <= n_tokens:
                raise ValueError(f"n_logits must lie between 0 and {n_tokens}, got {chunk.n_logits}")
            if not 0 <= table.min() <= table.max() < self._n_blocks:
                raise ValueError(f"block_table must hold blocks between 0 and {self._n_blocks - 1}")

    def _new_logits(self, n_rows: int) -> Floats:
        return np.empty((n_rows, -(-self._vocab_size // ROWS) * ROWS), np.float32)


class _Weights:
    """The weights of a checkpoint as a structure for the library, and the arrays that it points into."""

    def __init__(self, checkpoint: Checkpoint, progress: Callable[[int, int], None]) -> None:
        self._checkpoint = checkpoint
        self._arrays: list[np.ndarray] = []
        self._layers = (_Layer * checkpoint.config.n_layer)()
        self.model = _Model(layers=self._layers)
        self._describe(checkpoint.config)
        shapes = list(parameter_shapes(checkpoint.config))
        for n_done, (name, shape) in enumerate(shapes, 1):
            self._read(name, shape)
            progress(n_done, len(shapes))
        if checkpoint.config.tied_head:
            self.model.lm_head = self.model.wte

    def _describe(self, config: GPTConfig) -> None:
        for name in _SIZES:
            setattr(self.model, name, getattr(config, name))
        self.model.activation = ACTIVATIONS.index(config.activation)
        self.model.norm_eps = config.norm_eps
        if config.rope is not None:
            evens = np.arange(0, config.head_dim, 2, dtype=np.float32)
            self.model.rope_magnitude = rope_magnitude(config.rope)
            self.model.frequencies = self._keep(rope_frequencies(config.rope, evens))
        for index, layer in enumerate(self._layers):
            layer.rotates, layer.window = config.rotates(index), config.window_of(index) or 0

    def _read(self, name: str, shape: Shape) -> None:
        """Put a parameter where decode.c looks for it."""
        module, _, kind = name.rpartition(".")
        place: ctypes.Structure = self.model
        if module.startswith("h."):
            _, index, module = module.split(".", 2)
            place = self._layers[int(index)]
            module = _IN_LAYER.get(module, module.rpartition(".")[2])
        if len(shape) == 1:
            setattr(getattr(place, module), kind, self._keep(read_vector(self._checkpoint, name, shape)))
            return
        matrix = pack(self._checkpoint, name, shape)
        packed = _Matrix(matrix.kind, matrix.n_rows, matrix.n_columns, self._keep(matrix.data))
        if module in _LINEARS:
            getattr(place, module).weight = packed
        else:
            setattr(place, module, packed)

    def _keep(self, array: np.ndarray) -> int:
        self._arrays.append(array)
        return _address(array)


def _reserve(n_bytes: int) -> np.ndarray:
    """Return memory that becomes resident where it is written to, in large pages where there are such."""
    try:
        memory = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise MemoryError(f"too little memory for {n_bytes:,} bytes of keys and values ({error})") from None
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


def _address(array: np.ndarray) -> int:
    return array.ctypes.data


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Tell ctypes what the functions of decode.c take and return."""
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    model, cache = ctypes.POINTER(_Model), ctypes.POINTER(_Cache)
    library.parley_cache_bytes.argtypes = [model, integer, integer]
    library.parley_cache_bytes.restype = ctypes.c_size_t
    library.parley_open.argtypes, library.parley_open.restype = [model, cache, integer], pointer
    library.parley_step.argtypes = [pointer, integer, ctypes.POINTER(_Chunk), pointer, pointer]
    library.parley_copy_block.argtypes, library.parley_copy_block.restype = [pointer, integer, integer], None
    library.parley_close.argtypes, library.parley_close.restype = [pointer], None
    return library
