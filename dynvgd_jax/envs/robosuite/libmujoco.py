"""Calls libmujoco's C functions from compiled code, and views of what they write."""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

from dynvgd_jax.envs.robosuite.headless import mujoco


def function_address(name: str) -> int:
    """Returns the address of a C function in the library that the bindings loaded."""
    folder = Path(mujoco.__file__).parent
    files = [*folder.glob("libmujoco*"), *folder.glob("mujoco.dll")]
    if len(files) != 1:
        raise OSError(f"{folder}: expected one MuJoCo library, found {files}")
    function = getattr(ctypes.CDLL(str(files[0])), name)
    return ctypes.cast(function, ctypes.c_void_p).value


@intrinsic
def call_model_data(typingctx, address, model, data):
    """Calls the C function `void f(const mjModel*, mjData*)` at an address (int64).

    An address that arrives as an argument, unlike a ctypes function, lets numba keep
    the compiled code on disk.
    """

    def codegen(context, builder, signature, args):
        pointer = ir.IntType(8).as_pointer()
        function_type = ir.FunctionType(ir.VoidType(), [pointer, pointer])
        function = builder.inttoptr(args[0], function_type.as_pointer())
        values = [builder.inttoptr(arg, pointer) for arg in args[1:]]
        builder.call(function, values)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def call_jacobian(typingctx, address, model, data, jacp, jacr, site):
    """Calls `mj_jacSite` at an address; all are int64, jacp and jacr addresses too."""

    def codegen(context, builder, signature, args):
        pointer, integer = ir.IntType(8).as_pointer(), ir.IntType(32)
        function_type = ir.FunctionType(ir.VoidType(), [pointer] * 4 + [integer])
        function = builder.inttoptr(args[0], function_type.as_pointer())
        values = [builder.inttoptr(arg, pointer) for arg in args[1:5]]
        builder.call(function, [*values, builder.trunc(args[5], integer)])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), codegen


@intrinsic
def _pointer(typingctx, address):
    """Turns an address (int64) into a pointer for numba's carray."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), codegen


_MANY = 1 << 30  # rows of a view whose length the caller knows


@njit(nogil=True)
def doubles(address):
    """Returns the float64 array [many] at an address."""
    return carray(_pointer(address), (_MANY,), np.float64)


@njit(nogil=True)
def vectors(address):
    """Returns the float64 array [many, 3] at an address."""
    return carray(_pointer(address), (_MANY, 3), np.float64)


@njit(nogil=True)
def quaternions(address):
    """Returns the float64 array [many, 4] at an address."""
    return carray(_pointer(address), (_MANY, 4), np.float64)


@njit(nogil=True)
def matrices(address):
    """Returns the float64 array [many, 3, 3] at an address."""
    return carray(_pointer(address), (_MANY, 3, 3), np.float64)


@njit(nogil=True)
def integers(address):
    """Returns the int32 array [many] at an address."""
    return carray(_pointer(address), (_MANY,), np.int32)


def _view(ctype, address: int) -> np.ndarray:
    return np.ctypeslib.as_array((ctype * 1).from_address(address))


def scalar_views(data: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns live views [1] of `ncon` (int32) and `time` (float64) inside mjData.

    The bindings give both by value only. In mjdata.h nine ints starting with ncon
    follow the timers, then the time; the timers' address comes from the bindings and
    both views are compared with the bindings' values.

    Raises:
      RuntimeError: where they disagree (another MuJoCo version).
    """
    timers = data.timer.duration
    end = timers.ctypes.data + len(timers) * timers.strides[0]
    ncon, time = _view(ctypes.c_int32, end), _view(ctypes.c_double, end + 40)
    if ncon[0] != data.ncon or time[0] != data.time:
        raise RuntimeError("mjData is not laid out as in MuJoCo 3.3.7")
    return ncon, time


def bounding_volumes_view(model: Any) -> np.ndarray:
    """Returns a live view [1] int32 of `nbvh`, the model's number of bounding volumes.

    It stands sixth in mjModel.

    Raises:
      RuntimeError: where the six differ from the bindings' values.
    """
    sizes = np.ctypeslib.as_array((ctypes.c_int32 * 6).from_address(model._address))
    names = ("nq", "nv", "nu", "na", "nbody", "nbvh")
    if sizes.tolist() != [getattr(model, name) for name in names]:
        raise RuntimeError("mjModel is not laid out as in MuJoCo 3.3.7")
    return sizes[5:]


def contact_geoms_view(model: Any, data: Any) -> np.ndarray:
    """Returns a live view [many, 2] int32 of the geom ids of all contacts.

    Contacts always begin at the start of the arena. Resets `data` to find them: in the
    reference pose the scene's objects overlap.

    Raises:
      RuntimeError: without contacts.
    """
    mujoco.mj_resetData(model, data)
    mujoco.mj_forward(model, data)
    geoms = data.contact.geom
    if data.ncon == 0:
        raise RuntimeError("the scene has no contact in its reference pose")
    most = int(data.narena) // geoms.strides[0]
    buffer = (ctypes.c_char * (most * geoms.strides[0])).from_address(geoms.ctypes.data)
    return np.ndarray((most - 1, 2), np.int32, buffer, strides=geoms.strides)
