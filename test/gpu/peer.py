"""transformers as a peer in speed: python peer.py MODEL NUM_PROMPT_TOKENS

Seconds of a prompt and of a decode step at batch 1 and 32 behind an eighth as many tokens, as model-figures.mjs measures ours.
One line of JSON a figure; ends with 77 and the reason where there is no transformers with a GPU."""
import json
import sys
import time


def skip(why):
    print(why)
    sys.exit(77)


try:
    import torch
    from transformers import AutoModelForCausalLM
except ImportError as error:
    skip(f"skipped: no torch or transformers ({error})")
if not torch.cuda.is_available():
    skip("skipped: torch finds no GPU")

folder, num_prompt = sys.argv[1], int(sys.argv[2])
context = max(16, num_prompt >> 3)
# `dtype` was called `torch_dtype` once, and is still understood by that name.
model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.bfloat16).to("cuda").eval()


def ids(batch, length):
    return torch.arange(batch * length, device="cuda").view(batch, length) % 200 + 1


def timed(work):
    torch.cuda.synchronize()
    started = time.perf_counter()
    result = work()
    torch.cuda.synchronize()
    return time.perf_counter() - started, result


def median(times):
    return sorted(times)[len(times) // 2]


def say(figure, seconds):
    print(json.dumps({"figure": f"transformers: {figure}", "seconds": seconds}))


with torch.no_grad():
    for batch in (1, 32):
        cache = model(ids(batch, context), use_cache=True, logits_to_keep=1).past_key_values
        times = []
        for _ in range(24):
            seconds, output = timed(lambda: model(ids(batch, 1), past_key_values=cache, use_cache=True))
            cache = output.past_key_values
            times.append(seconds)
        say(f"decode step, batch {batch}", median(times[3:]))
        del cache
    prompt = ids(1, num_prompt)
    times = [timed(lambda: model(prompt, logits_to_keep=1))[0] for _ in range(6)]
    say(f"prefill, {num_prompt} tokens", median(times[1:]))
