"""How much a stage takes at a time: numbers that a stage computes with and that the plan counts with.

Each stage has a module of its own here, so that a change reruns that stage only. None of them imports torch.
"""
