"""transformers as the second opinion on greedy-logits.mjs: python oracle.py MODEL ANSWERS

The same weights in float32 are the truth; our logits may lie twice as far from it as transformers' own in bfloat16, and each
token of ours must have been the largest logit there, within that distance. Ends with 77 and the reason without transformers."""
import json
import sys


def skip(why):
    print(why)
    sys.exit(77)


try:
    import numpy
    import torch
    from transformers import AutoModelForCausalLM
except ImportError as error:
    skip(f"skipped: no torch or transformers ({error})")

folder, answers = sys.argv[1:3]
with open(answers + ".json") as file:
    said = json.load(file)
ours = torch.from_numpy(numpy.fromfile(answers + ".bin", dtype=numpy.float32)).view(-1, said["vocab"])
device = "cuda" if torch.cuda.is_available() else "cpu"


def logits_in(dtype):
    """(answers' tokens, vocab): behind the prompt and each of our tokens but the last."""
    # `dtype` was called `torch_dtype` once, and is still understood by that name.
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=dtype).to(device).eval()
    rows = []
    with torch.no_grad():
        for prompt, answer in zip(said["prompts"], said["answers"]):
            ids = torch.tensor([prompt + answer[:-1]], device=device)
            rows.append(model(ids).logits[0, len(prompt) - 1 :].float().cpu())
    return torch.cat(rows)


def distance(logits, truth):
    return ((logits - truth).pow(2).mean() / truth.pow(2).mean()).sqrt().item()


truth = logits_in(torch.float32)
theirs = distance(logits_in(torch.bfloat16), truth)
mine = distance(ours, truth)
tokens = torch.tensor([token for answer in said["answers"] for token in answer])
behind = truth.max(dim=1).values - truth.gather(1, tokens[:, None])[:, 0]
# A token that is not the truth's first must be as near to it as the errors of two logits allow.
allowed = 2 * (ours - truth).abs().max(dim=1).values
wrong = int((behind > allowed).sum())
same = int((truth.argmax(dim=1) == tokens).sum())
ok = mine <= 2 * theirs + 1e-6 and wrong == 0
print(json.dumps({"figure": "distance of logits from float32", "ours": mine, "transformers_bf16": theirs,
                  "tokens": len(tokens), "same_token": same, "wrong_token": wrong, "ok": ok}))
sys.exit(0 if ok else 1)
