// The kernels themselves, compiled for the host.
#include "cuda/kernels.cu"
