"""See what every level of a model says of a text, by the shortcuts that a study fitted.

Without arguments this takes the default study, which `make` runs. Another folder of a model and a corpus, and
another text:

    python examples/lens.py results/STUDY/MODEL/CORPUS "Why is the sky blue?"
"""

import sys

import onejump

pair, prompt = "results/default/smollm2-135m/wikipedia-en", "The Eiffel Tower is in the city of"
if len(sys.argv) > 1:
    pair, prompt = sys.argv[1:]

trajectory = onejump.Trajectory.from_results(pair, prompt, ["identity", "one-jump"])

print(trajectory.to_text("one-jump"))  # the most likely token of each level, and its probability in percent
print(trajectory.surprisal("one-jump")[:, :-1].mean(1).round(2))  # of the prompt's next token, by level
trajectory.save_html("lens.html", "one-jump")  # a page that opens offline
