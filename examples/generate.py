"""Generate text that exits early, with a jump that a study exported.

Without arguments this takes the default study, which `make` runs. Other models and jumps, each a folder or a
name on the Hugging Face hub:

    python examples/generate.py MODEL JUMP "Why is the sky blue?"
"""

import sys

from transformers import AutoModelForCausalLM, AutoTokenizer

import onejump
from onejump.exits.gates import TopProbability
from onejump.models.description import read_description

STUDY = "results/default/smollm2-135m"
if len(sys.argv) > 1:
    source, folder, prompt = sys.argv[1:]
else:
    source, folder = read_description(f"{STUDY}/model.json").source, f"{STUDY}/wikipedia-en/export/one-jump"
    prompt = "The moon is"

tokenizer = AutoTokenizer.from_pretrained(source)
model = AutoModelForCausalLM.from_pretrained(source)
jump = onejump.OneJump.from_pretrained(folder)
# A token exits at level 2 or 3 if the jump gives the next token a probability of 0.3 or more. A jump that was
# calibrated brings better gates along: gate="95%".
exits = onejump.EarlyExit(model, jump, gate=TopProbability({2: 0.3, 3: 0.3}))
found = exits.generate(tokenizer(prompt, return_tensors="pt").input_ids, max_new_tokens=40, do_sample=False)

print(tokenizer.decode(found.new_tokens[0]))
print(f"{found.accepted} of {found.drafted} drafts kept, {found.tokens_per_second:.1f} tokens per second")
