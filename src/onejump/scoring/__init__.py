"""How good shortcuts are: evaluation, the score matrix, selection, analysis."""
