// All attention kernels of one head dim; the build script compiles this file with HEAD_DIM = 16, 32, 64 and 128.
#include "attention_backward_kv.cuh"
#include "attention_backward_q.cuh"
#include "attention_delta.cuh"
#include "attention_forward.cuh"
#include "paged_attention.cuh"
