"""Behaves like pycuda 2026.1 (src/cpp/cuda.hpp) where that is easily got wrong.

* Allocations and streams belong to the context on top of pycuda's own stack, one per thread, and
  need one there; it is not the driver's stack.
* A thread that ends with something on its stack ends the process.
* What nobody refers to any more is freed in its context: of the same thread, or on top.
* A primary context that is released stays current.
"""

import ctypes
import os
import threading

import numpy as np

_cuda = ctypes.CDLL("libcuda.so.1")


class Error(Exception):
    pass


class LogicError(Error):
    pass


class host_alloc_flags:  # noqa: N801 (pycuda's name)
    PORTABLE = 1


def _call(name, *arguments):
    result = getattr(_cuda, name)(*arguments)
    if result:
        text = ctypes.c_char_p()
        _cuda.cuGetErrorString(result, ctypes.byref(text))
        raise LogicError(f"{name.split('_v')[0]} failed: {text.value.decode()}")


class _Stack(threading.local):
    def __init__(self):
        self.contexts = []
        self.guard = _Guard(self.contexts)


class _Guard:
    def __init__(self, contexts):
        self.contexts = contexts

    def __del__(self):
        if self.contexts:
            os.write(2, b"PyCUDA ERROR: The context stack was not empty upon module cleanup.\n")
            os.abort()


_stack = _Stack()


def init():
    _call("cuInit", 0)


class Device:
    def __init__(self, index):
        self.index = index

    def __eq__(self, other):
        return self.index == other.index

    def __hash__(self):
        return self.index

    def retain_primary_context(self):
        handle = ctypes.c_void_p()
        _call("cuDevicePrimaryCtxRetain", ctypes.byref(handle), self.index)
        return Context(handle, primary_of=self.index)

    def make_context(self, flags=0):
        handle = ctypes.c_void_p()
        _call("cuCtxCreate_v2", ctypes.byref(handle), flags, self.index)
        context = Context(handle, primary_of=None)
        _stack.contexts.append(context)
        return context


class Context:
    def __init__(self, handle, primary_of):
        self._handle = handle
        self._primary_of = primary_of
        self.valid = True
        self.thread = threading.get_ident()

    @property
    def handle(self):
        return self._handle.value

    @staticmethod
    def get_current():
        return _stack.contexts[-1] if _stack.contexts else None

    @staticmethod
    def get_device():
        index = ctypes.c_int()
        _call("cuCtxGetDevice", ctypes.byref(index))
        return Device(index.value)

    def push(self):
        if _stack.contexts:
            _call("cuCtxPopCurrent_v2", None)
        _call("cuCtxPushCurrent_v2", self._handle)
        _stack.contexts.append(self)

    @staticmethod
    def pop():
        if not _stack.contexts:
            raise LogicError("context::pop failed: invalid device context")
        _call("cuCtxPopCurrent_v2", None)
        _stack.contexts.pop()
        if _stack.contexts:
            _call("cuCtxPushCurrent_v2", _stack.contexts[-1]._handle)

    def detach(self):
        active = Context.get_current() is self
        if not active:
            assert self.thread == threading.get_ident(), "leaks from another thread"
            _call("cuCtxPushCurrent_v2", self._handle)
        if self._primary_of is None:
            _call("cuCtxDestroy_v2", self._handle)
        else:
            _call("cuDevicePrimaryCtxRelease_v2", self._primary_of)
        self.valid = False
        if active:
            _stack.contexts.pop()
            if _stack.contexts:
                _call("cuCtxPushCurrent_v2", _stack.contexts[-1]._handle)

    def __del__(self):
        if self.valid and self.thread == threading.get_ident():
            self.detach()


class _Owned:
    def __init__(self):
        self.context = Context.get_current()
        if self.context is None:
            raise LogicError("explicit_context_dependent failed: no currently active context?")
        self.alive = True

    def free(self):
        assert self.alive, "freed twice"
        self.alive = False
        switch = Context.get_current() is not self.context
        if switch:
            if self.context.thread != threading.get_ident():
                raise LogicError("cannot activate out-of-thread context")
            self.context.push()
        self._free()
        if switch:
            Context.pop()

    def __del__(self):
        if getattr(self, "alive", False):
            self.free()


class DeviceAllocation(_Owned):
    def __init__(self, nbytes):
        super().__init__()
        self._address = ctypes.c_uint64()
        try:
            _call("cuMemAlloc_v2", ctypes.byref(self._address), ctypes.c_size_t(nbytes))
        except Error:
            self.alive = False
            raise

    def __int__(self):
        return self._address.value

    def _free(self):
        _call("cuMemFree_v2", self._address)


mem_alloc = DeviceAllocation


class PagelockedHostAllocation(_Owned):
    def __init__(self, nbytes, flags):
        super().__init__()
        self._address = ctypes.c_void_p()
        address = ctypes.byref(self._address)
        try:
            _call("cuMemHostAlloc", address, ctypes.c_size_t(nbytes), flags)
        except Error:
            self.alive = False
            raise
        self.__array_interface__ = {
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (self._address.value, False),
            "version": 3,
        }

    def _free(self):
        _call("cuMemFreeHost", self._address)


def pagelocked_empty(shape, dtype, order="C", mem_flags=0):
    assert dtype is np.uint8
    return np.asarray(PagelockedHostAllocation(shape, mem_flags))  # its `base` is the allocation


class Stream(_Owned):
    def __init__(self, flags=0):
        super().__init__()
        self._handle = ctypes.c_void_p()
        _call("cuStreamCreate", ctypes.byref(self._handle), flags)

    @property
    def handle(self):
        return self._handle.value

    def synchronize(self):
        _call("cuStreamSynchronize", self._handle)

    def _free(self):
        _call("cuStreamDestroy_v2", self._handle)


def memcpy_htod_async(dest, src, stream=None):
    address, size = ctypes.c_void_p(src.ctypes.data), ctypes.c_size_t(src.nbytes)
    _call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(dest), address, size, stream._handle)


def memcpy_dtoh_async(dest, src, stream=None):
    address, size = ctypes.c_void_p(dest.ctypes.data), ctypes.c_size_t(dest.nbytes)
    _call("cuMemcpyDtoHAsync_v2", address, ctypes.c_uint64(src), size, stream._handle)


def memcpy_dtod_async(dest, src, size, stream=None):
    there, here = ctypes.c_uint64(dest), ctypes.c_uint64(src)
    _call("cuMemcpyDtoDAsync_v2", there, here, ctypes.c_size_t(size), stream._handle)
