"""What an FP16 graph leaves in FP32: one rule after another, each with a case that needs it."""

import numpy as np
import pytest
from helpers_fp16 import FLOAT, HALF, computes_in, model_of, run

from vad_export.fp16 import fp16_from_model

# -- large numbers -----------------------------------------------------------------------------


def test_an_error_sum_above_the_largest_half_is_right() -> None:
    model = model_of(
        """(float[N,16,128,128] a, float[N,16,128,128] b) => (float[N] score) {
        d = Sub(a, b)
        s = Mul(d, d)
        score = ReduceSum <keepdims = 0> (s, axes)
        }""",
        {"axes": np.array([1, 2, 3], np.int64)},
    )
    result = fp16_from_model(model)
    assert result.kept == dict.fromkeys(["d", "s", "score"], "large_reduction")
    ones = np.ones((1, 16, 128, 128), np.float32)
    [score] = run(result.model, a=ones, b=0 * ones)
    assert score == [262144.0]


def test_a_short_sum_inside_a_graph_is_in_fp16_and_a_long_one_is_not() -> None:
    model = model_of(
        """(float[N,8,4096] x) => (float[N,32] a, float[N,8] b) {
        short = ReduceMean <keepdims = 0> (x, first)
        p = Relu(short)
        q = MatMul(p, w)
        a = Relu(q)
        long = ReduceMean <keepdims = 0> (x, last)
        b = Relu(long)
        }""",
        {
            "first": np.array([1], np.int64),
            "last": np.array([-1], np.int64),
            "w": np.ones((4096, 32), np.float32),
        },
    )
    result = fp16_from_model(model)
    assert result.kept["long"] == "large_reduction"
    assert computes_in(result.model, "short") == HALF


def test_a_constant_above_the_largest_half_keeps_its_node() -> None:
    model = model_of(
        """(float[N,64,512] x) => (float[N,64,512] y) {
        masked = Add(x, mask)
        p = Softmax <axis = -1> (masked)
        z = Relu(p)
        y = Relu(z)
        }""",
        {"mask": np.where(np.arange(512) < 256, 0, -3e38).astype(np.float32)},
    )
    result = fp16_from_model(model)
    assert result.kept == {"masked": "overflow", "p": "softmax"}
    [y] = run(result.model, x=np.zeros((1, 64, 512), np.float32))
    np.testing.assert_allclose(y[..., :256], 1 / 256)
    assert not y[..., 256:].any()


def test_pixels_are_normalised_in_fp32_and_cast_after_the_last_arithmetic() -> None:
    model = model_of(
        """(uint8[N,4,40,40,3] clip) => (float[N,3,4,32,32] y) {
        t = Transpose <perm = [0, 4, 1, 2, 3]> (clip)
        f = Cast <to = 1> (t)
        m = Sub(f, mean)
        n = Mul(m, scale)
        cut = Slice(n, start, end, axes)
        c = Conv <kernel_shape = [1, 1, 1]> (cut, w)
        y = Relu(c)
        }""",
        {
            "mean": np.array([100.3, 101.7, 99.1], np.float32).reshape(1, 3, 1, 1, 1),
            "scale": np.float32(1 / 57.0),
            "start": np.array([4, 4], np.int64),
            "end": np.array([36, 36], np.int64),
            "axes": np.array([3, 4], np.int64),
            "w": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1, 1),
        },
    )
    result = fp16_from_model(model)
    assert result.kept == dict.fromkeys(["f", "m", "n"], "normalisation")
    assert computes_in(result.model, "cut") == HALF


def test_bytes_that_go_straight_into_a_convolution_are_cast_to_fp16() -> None:
    model = model_of(
        """(uint8[N,1,4,32,32] clip) => (float[N,1,4,32,32] y) {
        f = Cast <to = 1> (clip)
        c = Conv <kernel_shape = [1, 1, 1]> (f, w)
        y = Relu(c)
        }""",
        {"w": np.ones((1, 1, 1, 1, 1), np.float32)},
    )
    result = fp16_from_model(model)
    assert "f" not in result.kept
    clip = np.arange(256, dtype=np.uint8).repeat(16).reshape(1, 1, 4, 32, 32)
    np.testing.assert_array_equal(run(result.model, clip=clip)[0], clip.astype(np.float32))


def test_integers_that_become_floats_stay_exact() -> None:
    model = model_of(
        """(int64[N,32768] i) => (int64[N,32768] j) {
        f = Cast <to = 1> (i)
        g = Add(f, one)
        j = Cast <to = 7> (g)
        }""",
        {"one": np.float32(1)},
    )
    result = fp16_from_model(model)
    assert result.kept["g"] == "integers"
    i = np.full((1, 32768), 2048, np.int64)
    np.testing.assert_array_equal(run(result.model, i=i)[0], i + 1)


# -- small numbers -----------------------------------------------------------------------------


def test_a_tiny_epsilon_is_not_flushed_to_zero() -> None:
    model = model_of(
        """(float[N,20000] x) => (float[N,20000] y) {
        square = Mul(x, x)
        sum = Add(square, eps)
        root = Sqrt(sum)
        ratio = Div(x, root)
        z = Relu(ratio)
        y = Relu(z)
        }""",
        {"eps": np.float32(1e-12)},
    )
    result = fp16_from_model(model)
    assert result.kept == dict.fromkeys(["square", "sum", "root", "ratio"], "tiny_epsilon")
    [y] = run(result.model, x=np.array([[0.0, 1e-3] * 10000], np.float32))
    assert np.isfinite(y).all()
    np.testing.assert_allclose(y[0, :2], [0, 1], rtol=1e-3)


def test_a_vector_is_made_a_unit_vector_without_rounding_on_the_way() -> None:
    # A Clip of 1e-12 behind the root, as torch's `normalize` has it; a weight follows.
    model = model_of(
        """(float[N,4096] x) => (float[N,512] y) {
        square = Mul(x, x)
        sum = ReduceSum(square, axes)
        root = Sqrt(sum)
        clamp = Clip(root, eps)
        unit = Div(x, clamp)
        p = MatMul(unit, w)
        y = Relu(p)
        }""",
        {
            "axes": np.array([1], np.int64),
            "eps": np.float32(1e-12),
            "w": np.ones((4096, 512), np.float32),
        },
    )
    result = fp16_from_model(model)
    assert set(result.kept) == {"square", "sum", "root", "clamp", "unit", "y"}
    assert result.kept["clamp"] == result.kept["square"] == "tiny_epsilon"
    casts = [n for n in result.model.graph.node if n.op_type == "Cast"]
    assert len(casts) == 2  # the unit vector to FP16, the product to FP32
    x = np.full((1, 4096), 30.0, np.float32)  # the sum of squares is 3.7 million
    np.testing.assert_allclose(run(result.model, x=x)[0], 64.0, rtol=1e-3)
    assert not run(result.model, x=0 * x)[0].any()


def test_a_layer_norm_with_a_small_epsilon_stays_and_one_with_a_large_epsilon_does_not() -> None:
    model = model_of(
        """(float[N,128,256] x) => (float[N,128,256] y) {
        small = LayerNormalization <epsilon = 1e-6> (x, w)
        large = LayerNormalization <epsilon = 1e-3> (small, w)
        y = Relu(large)
        }""",
        {"w": np.ones(256, np.float32)},
    )
    result = fp16_from_model(model)
    assert result.kept == {"small": "tiny_epsilon"}
    # The weight that both share is there twice, once in each type.
    assert {t.name: t.data_type for t in result.model.graph.initializer} == {
        "w": FLOAT,
        "w_fp16": HALF,
    }


@pytest.mark.parametrize(("variance", "kept"), [(1.0, {}), (1e-9, {"b": "tiny_epsilon"})])
def test_a_batch_norm_stays_only_where_its_epsilon_counts(variance: float, kept: dict) -> None:
    names = ("scale", "bias", "mean", "var")
    model = model_of(
        """(float[N,4,64,128] x) => (float[N,4,64,128] y) {
        b = BatchNormalization <epsilon = 1e-5> (x, scale, bias, mean, var)
        y = Relu(b)
        }""",
        {n: np.full(4, variance if n == "var" else 1, np.float32) for n in names},
    )
    assert fp16_from_model(model).kept == kept


def test_weights_that_would_vanish_keep_their_layer() -> None:
    model = model_of(
        """(float[N,128,256] x) => (float[N,128,256] y) {
        p = MatMul(x, w)
        q = Mul(p, large)
        y = Relu(q)
        }""",
        {"w": np.full((256, 256), 1e-8, np.float32), "large": np.float32(1e4)},
    )
    result = fp16_from_model(model)
    assert result.kept["p"] == "underflow"
    [y] = run(result.model, x=np.ones((1, 128, 256), np.float32))
    assert (y > 0).all()


# -- the end of the graph ----------------------------------------------------------------------


def test_the_last_steps_of_a_score_head_stay_fp32() -> None:
    model = model_of(
        """(float[N,1,512] x) => (float[N] score) {
        h = MatMul(x, wide)
        r = Relu(h)
        logit = MatMul(r, last)
        biased = Add(logit, bias)
        flat = Squeeze(biased, axes)
        score = Sigmoid(flat)
        }""",
        {
            "wide": np.full((512, 512), 0.01, np.float32),
            "last": np.full((512, 1), 0.01, np.float32),
            "bias": np.array([-20], np.float32),
            "axes": np.array([1, 2], np.int64),
        },
    )
    result = fp16_from_model(model)
    assert result.kept == dict.fromkeys(["logit", "biased", "flat", "score"], "score_head")
