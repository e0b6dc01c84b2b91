import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from lcjax.fingerprints import fingerprint

DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.int8]


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_numbers_have_one_name_in_numpy_and_jax(dtype):
    with jax.enable_x64(True):
        array = np.random.default_rng(0).normal(size=(5, 3)).astype(dtype)
        name = fingerprint([array])
        assert name == fingerprint([jnp.asarray(array)])
        assert name == fingerprint([np.asfortranarray(array)])
        assert name == fingerprint([array.astype(array.dtype.newbyteorder("="))])


@pytest.mark.parametrize("change", ["value", "swap", "shape", "dtype", "sign"])
def test_other_numbers_have_other_names(change):
    array = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    array[0, 0] = 0
    other = array.copy()
    match change:
        case "value":
            other[2, 3] = np.nextafter(other[2, 3], np.float32(9))
        case "swap":
            other[[1, 2]] = other[[2, 1]]
        case "shape":
            other = other.reshape(6, 4)
        case "dtype":
            other = other.view(np.int32)
        case "sign":
            other[0, 0] = -0.0
    assert fingerprint([array]) != fingerprint([other])


def test_shapes_and_traced_arrays_have_no_name():
    assert fingerprint([jax.ShapeDtypeStruct((2,), np.float32)]) is None
    names = []
    jax.make_jaxpr(lambda x: names.append(fingerprint([x])) or x)(1.0)
    assert names == [None]
