// The clamped swiglu on interleaved (gate, up): gate = min(g, limit), up = clamp(u, -limit, limit),
// h = (up + 1) * gate * sigmoid(1.702 * gate). Outside the clamps the gradient is 0, at the bound it passes.
#pragma once
#include "common.cuh"

constexpr float ALPHA = 1.702f;

// Written so that a NaN stays one.
__device__ __forceinline__ float at_most(float x, float limit) { return x > limit ? limit : x; }
__device__ __forceinline__ float within(float x, float limit) { return x > limit ? limit : (x < -limit ? -limit : x); }
__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.f, 1.f + __expf(-x)); }

__device__ __forceinline__ float swiglu(float g, float u, float limit) {
    const float gate = at_most(g, limit), up = within(u, limit);
    return (up + 1.f) * (gate * sigmoid(ALPHA * gate));
}

__device__ __forceinline__ void swiglu_gradient(float g, float u, float dh, float limit, float& dg, float& du) {
    const float gate = at_most(g, limit), up = within(u, limit), s = sigmoid(ALPHA * gate), act = gate * s;
    dg = g > limit ? 0.f : dh * (up + 1.f) * (s + ALPHA * act * (1.f - s));
    du = u > limit || u < -limit ? 0.f : dh * act;
}
