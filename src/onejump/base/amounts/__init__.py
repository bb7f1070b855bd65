"""Amounts, such as the number of samples in a block, that a stage computes with and the plan counts with.

Each stage has its own module here, so that a change runs only that stage again. None of them imports torch.
"""
