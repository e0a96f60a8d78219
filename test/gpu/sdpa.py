"""PyTorch's scaled_dot_product_attention in the shape of our prefill figure: one request of 8k tokens, causal, 32 query heads
over 8 KV heads of 128. One line of JSON; ends with 77 and the reason where there is no PyTorch with a GPU."""
import json
import sys


def skip(why):
    print(why)
    sys.exit(77)


try:
    import torch
    import torch.nn.functional as F
except ImportError as error:
    skip(f"skipped: no torch ({error})")
if not torch.cuda.is_available():
    skip("skipped: torch finds no GPU")

tokens = 64 if "--small" in sys.argv else 8192
shape = {"device": "cuda", "dtype": torch.bfloat16}
q = torch.randn(1, 32, tokens, 128, **shape)
# Repeated before it is timed: what the peer is to be measured by is its kernel.
k = torch.randn(1, 8, tokens, 128, **shape).repeat_interleave(4, dim=1)
v = torch.randn(1, 8, tokens, 128, **shape).repeat_interleave(4, dim=1)


def seconds(work, rounds=15):
    for _ in range(3):
        work()
    times = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1000)
    return sorted(times)[rounds // 2]


time = seconds(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True))
# As native/cuda/figures counts: half of all pairs, two products each.
flops = 2.0 * tokens * tokens * 128 * 32
print(json.dumps({"figure": "scaled_dot_product_attention", "rate": flops / time, "seconds": time, "torch": torch.__version__}))
