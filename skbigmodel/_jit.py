"""Compilation: the only module that imports Numba.

Everything jitted in the package is made by :func:`jit`; jitted code calls the methods of a loss, penalty or
layout through a stub made by :func:`method`. Compiled code is kept on disk between processes where a folder
can be written, and is never stale: its key carries a digest of all sources of the package.
"""

import hashlib
import pathlib
import pickle
import struct
import warnings

import numpy as np

try:
    import numba
    from numba import types
    from numba.core.caching import FunctionCache
    from numba.core.errors import NumbaPerformanceWarning
    from numba.extending import intrinsic, overload
except ImportError:  # a pickled model loads and predicts all the same, and a fit runs as plain Python
    numba = None

# Sums may be reordered (they vectorise), but NaN and infinity keep their meaning, so divergence is seen.
FASTMATH = {"reassoc", "contract", "nsz", "arcp"}
# A function called from two kernels exists in each, optimised anew; were it not inlined, the linker would
# take one for all, in a process that compiles another than in one that loads from the cache, and last bits
# would differ.
OPTIONS = {"nogil": True, "fastmath": FASTMATH, "error_model": "numpy", "forceinline": True}
# Without "reassoc", where the order of operations is part of a formula.
EXACT = {**OPTIONS, "fastmath": {"contract", "nsz"}}
DISABLED = numba is None or bool(numba.config.DISABLE_JIT)


def _digest_of_sources():
    digest = hashlib.sha256()
    for path in sorted(pathlib.Path(__file__).parent.rglob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


SOURCE_STAMP = _digest_of_sources()


if numba is not None:

    def _is_foreign(numba_type):
        """Whether a type involves a class defined outside this package."""
        if isinstance(numba_type, types.BaseNamedTuple):
            inside = numba_type.instance_class.__module__.partition(".")[0] == __package__
            return not inside or any(map(_is_foreign, numba_type.types))
        return False

    class _PackageCache(FunctionCache):
        """Numba's cache on disk, made safe in three ways.

        - Numba looks only at a kernel's own file; here the index is stamped with the digest of all sources.
        - Code for a class of the user's (its own loss, say) is not stored: its source is not part of the
          stamp, and an index that names a class which another process cannot import would break the cache for
          everyone.
        - A damaged, full or vanished cache folder costs a compilation, never an exception.
        """

        def __init__(self, function):
            super().__init__(function)
            self._cache_file._source_stamp = SOURCE_STAMP

        def load_overload(self, sig, target_context):
            if any(map(_is_foreign, sig)):
                return None
            try:
                return super().load_overload(sig, target_context)
            except (OSError, EOFError, pickle.PickleError, ImportError, AttributeError):
                return None

        def save_overload(self, sig, data):
            if any(map(_is_foreign, sig)):
                return
            try:
                super().save_overload(sig, data)
            except (OSError, EOFError, pickle.PickleError, ImportError, AttributeError):
                self.disable()


def jit(function):
    """Compile a kernel: it releases the GIL, vectorises sums and is cached on disk where that is possible."""
    if numba is None:
        return function
    dispatcher = numba.njit(**OPTIONS)(function)
    if not DISABLED:
        try:
            dispatcher._cache = _PackageCache(function)
        except RuntimeError:  # no folder can be written: compile anew in each process
            pass
    return dispatcher


def part(function):
    """A part of one kernel or a few: put into them before types are known, so that it is compiled only there.

    Where :func:`jit` functions are nested deeply, each is optimised once more at every level above it.
    """
    return function if numba is None else numba.njit(**OPTIONS, inline="always")(function)


def called(function):
    """What a kernel calls as it stands, compiled once: no sums in it, so its bits need no inlining."""
    return function if numba is None else numba.njit(nogil=True, error_model="numpy")(function)


def method(stub, fallback=None):
    """Let jitted code call ``stub(obj, ...)`` as the method of that name of ``obj``, a ``NamedTuple``.

    The call is resolved from the type of ``obj`` while compiling, so it costs nothing and is inlined. A class
    without the method uses that of the name ``fallback``.
    """
    if numba is None:
        return stub
    name = stub.__name__

    def resolve(self, *args):
        if not isinstance(self, types.BaseNamedTuple):
            return None
        return getattr(self.instance_class, name, None) or getattr(
            self.instance_class, fallback or name, None
        )

    overload(stub, jit_options=OPTIONS, strict=False)(resolve)
    return stub


def compiled_signatures(*dispatchers):
    """Number of compiled specialisations: tests count them."""
    return sum(len(getattr(dispatcher, "signatures", ())) for dispatcher in dispatchers)


def frozen(array, dtype=None):
    """A read-only C-contiguous view, a copy only where needed: kernels see one kind of array."""
    view = np.ascontiguousarray(array, dtype=dtype).view(np.ndarray)
    view = view[:]  # the caller's own array keeps its flags
    view.flags.writeable = False
    return view


if DISABLED:

    def power_of_two(k):
        """2**k for an integer-valued float -1022 <= k <= 1023."""
        return struct.unpack("<d", struct.pack("<q", (int(k) + 1023) << 52))[0] if k == k else k

    lesser, greater = min, max

    def prefetch(array, k):
        """Nothing: it is a word to the processor."""

else:

    @intrinsic
    def _as_float(typingctx, bits):
        """The float64 with the given bits."""

        def codegen(context, builder, signature, args):
            return builder.bitcast(args[0], context.get_value_type(types.float64))

        return types.float64(types.int64), codegen

    @intrinsic
    def _as_bits(typingctx, value):
        """The bits of a float64."""

        def codegen(context, builder, signature, args):
            return builder.bitcast(args[0], context.get_value_type(types.int64))

        return types.int64(types.float64), codegen

    @intrinsic
    def prefetch(typingctx, array, k):
        """Have the processor load entry k of an array, which is soon needed, into its cache."""

        def codegen(context, builder, signature, args):
            from llvmlite import ir

            data = context.make_array(signature.args[0])(context, builder, args[0]).data
            byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
            function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
            place = builder.bitcast(builder.gep(data, [args[1]]), byte)
            builder.call(function, [place, flag(0), flag(3), flag(1)])  # to read, to all levels, data
            return context.get_dummy_value()

        return types.void(array, types.intp), codegen

    def _extreme(operation):
        """One of two float64, neither of which is NaN: a loop that looks for the extreme of many vectorises.

        Numba's ``min`` and ``max`` keep a promise about NaN, which vectors do not.
        """

        @intrinsic
        def extreme(typingctx, a, b):
            """LLVM's own operation, with its word that there is no NaN."""

            def codegen(context, builder, signature, args):
                from llvmlite import ir

                number = context.get_value_type(types.float64)
                kind = ir.FunctionType(number, [number, number])
                function = builder.module.declare_intrinsic(operation, [number], kind)
                return builder.call(function, args, fastmath=("nnan", "nsz"))

            return types.float64(types.float64, types.float64), codegen

        return extreme

    lesser, greater = _extreme("llvm.minnum"), _extreme("llvm.maxnum")

    @numba.njit(**EXACT)
    def power_of_two(k):
        """2**k for an integer-valued float -1022 <= k <= 1023, without a branch: loops with it vectorise.

        In k + 1.5·2**52 the last bits are those of the integer k: many processors convert no vector of
        floats to 64-bit integers.
        """
        return _as_float((_as_bits(k + 6755399441055744.0) + 1023) << 52)


_formula = numba.njit(**EXACT) if numba is not None else lambda function: function


@_formula
def _expm1_near_zero(r):
    """e**r - 1 for |r| <= ln(2)/2: Taylor's polynomial of degree 13, remainder below 1e-17."""
    q = 1.6059043836821613e-10
    q = q * r + 2.08767569878681e-09
    q = q * r + 2.505210838544172e-08
    q = q * r + 2.755731922398589e-07
    q = q * r + 2.7557319223985893e-06
    q = q * r + 2.48015873015873e-05
    q = q * r + 0.0001984126984126984
    q = q * r + 0.001388888888888889
    q = q * r + 0.008333333333333333
    q = q * r + 0.041666666666666664
    q = q * r + 0.16666666666666666
    q = q * r + 0.5
    q = q * r + 1.0
    return q * r


@_formula
def exp(x):
    """e**x to 1 ulp or so, without a branch; inputs are clipped to [-708, 708], NaN passes through."""
    x = min(max(x, -708.0), 708.0) if x == x else x
    k = np.floor(x * 1.4426950408889634 + 0.5)
    r = (x - k * 0.6931471803691238) - k * 1.9082149292705877e-10
    return (_expm1_near_zero(r) + 1.0) * power_of_two(k)


@_formula
def expm1(x):
    """e**x - 1, as exact near 0 as elsewhere, without a branch; clipped as :func:`exp`."""
    x = min(max(x, -708.0), 708.0) if x == x else x
    k = np.floor(x * 1.4426950408889634 + 0.5)
    r = (x - k * 0.6931471803691238) - k * 1.9082149292705877e-10
    scale = power_of_two(k)
    return _expm1_near_zero(r) * scale + (scale - 1.0)


@_formula
def log1p_unit(x):
    """log(1 + x) for 0 <= x <= 1, to 1 ulp or so, without a branch."""
    s = x / (2.0 + x)
    t = s * s  # at most 1/9: the series of atanh, 17 terms
    q = 1.0 / 33.0
    q = q * t + 1.0 / 31.0
    q = q * t + 1.0 / 29.0
    q = q * t + 1.0 / 27.0
    q = q * t + 1.0 / 25.0
    q = q * t + 1.0 / 23.0
    q = q * t + 1.0 / 21.0
    q = q * t + 1.0 / 19.0
    q = q * t + 1.0 / 17.0
    q = q * t + 1.0 / 15.0
    q = q * t + 1.0 / 13.0
    q = q * t + 1.0 / 11.0
    q = q * t + 1.0 / 9.0
    q = q * t + 1.0 / 7.0
    q = q * t + 1.0 / 5.0
    q = q * t + 1.0 / 3.0
    return 2.0 * s * (q * t + 1.0)


# np.dot on slices of a C array is what we want; Numba would warn that another order were faster
if numba is not None:
    warnings.filterwarnings("ignore", category=NumbaPerformanceWarning, module=r"skbigmodel\.")
