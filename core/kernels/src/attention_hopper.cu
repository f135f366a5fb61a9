// The three large attention kernels for head dim 64 on Hopper; compiled for compute_90a with HEAD_DIM=64 and HOPPER.
#include "attention_hopper_backward.cuh"
#include "attention_hopper_forward.cuh"
