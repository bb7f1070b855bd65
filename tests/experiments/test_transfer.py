"""What a transfer says about sentences that both corpora have."""

from __future__ import annotations

import pandas as pd

from onejump.experiments.transfer import count_seen


def test_sentences_that_the_fit_has_seen_are_counted() -> None:
    def corpus(training: list[str], validation: list[str]) -> pd.DataFrame:
        rows = [(text, "training") for text in training] + [(text, "validation") for text in validation]
        return pd.DataFrame(rows, columns=["sentence", "split"])

    one = corpus(["All rights reserved.", "A first one."], ["A second one."])
    other = corpus(["A second one.", "A third one."], ["ALL rights  reserved.", "A fourth one."])
    assert (count_seen(one, other), count_seen(other, one), count_seen(one, one)) == (1, 1, 0)
