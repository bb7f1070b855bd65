"""Standard errors for samples that come from documents: samples of one document are not independent.

Documents g = 1..G are clusters. If sample i moves an estimate by u_i, the squared standard error is

    G / (G - 1)  sum_g (sum_{i in g} u_i)^2.

For a mean over n samples, u_i is (x_i - mean) / n; for r2 it is that of the linearised ratio (`ClusteredR2`).
With one sample in each document this is the usual standard error of a mean. With a single document it is NaN.

Source: Cameron and Miller, "A practitioner's guide to cluster-robust inference", Journal of Human Resources
50 (2015), section II.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# With more documents than this, several share a cluster, so that memory does not grow with their number.
# Coarser clusters are valid too, and this many of them give a standard error to about one percent.
_MOST = 4096


class Clusters:
    """The documents that samples come from, as clusters.

    Parameters
    ----------
    documents : array of shape (n,)
        The document of each sample, by any value that differs between documents.

    Attributes
    ----------
    documents : int
        Number of documents.
    count : int
        Number of clusters, at most 4,096.
    of_samples : Tensor of shape (n,), int64
        The cluster of each sample, on the CPU.
    sizes : Tensor of shape (count,), float64
        Number of samples in each cluster.
    """

    def __init__(self, documents: NDArray[Any]) -> None:
        names, numbers = np.unique(documents, return_inverse=True)
        self.documents = len(names)
        self.count = min(self.documents, _MOST)
        self.of_samples = torch.from_numpy(numbers.reshape(-1) % self.count).to(torch.int64)
        self.sizes = torch.bincount(self.of_samples, minlength=self.count).double()

    @property
    def samples(self) -> int:
        """Number of samples, n."""
        return len(self.of_samples)

    def sums(self, *size: int) -> Tensor:
        """Zeros to `add` to: (count, *size), float64."""
        return torch.zeros(self.count, *size, dtype=torch.float64)

    def add(self, sums: Tensor, values: Tensor, part: slice = slice(None)) -> None:
        """Add the values of some samples to the sums of their clusters.

        Parameters
        ----------
        sums : Tensor
            Of `sums`.
        values : Tensor of shape (samples of the part, *size)
        part : slice
            Which samples; all unless given.
        """
        # On the CPU the order of the additions, and so the last bit of the sums, is the same every time.
        sums.index_add_(0, self.of_samples[part], values.double().cpu())

    def error(self, influence: Tensor) -> Tensor:
        """Standard error, of shape `size`, from the influence of each cluster, (count, *size)."""
        if self.count < 2:
            return torch.full(influence.shape[1:], float("nan"), dtype=torch.float64)
        return (influence.square().sum(0) * self.count / (self.count - 1)).sqrt()

    def mean_and_error(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """Mean over samples and its standard error, from the sums of all clusters (count, *size)."""
        mean = sums.sum(0) / self.samples
        apart = sums - self.sizes.view(-1, *[1] * mean.dim()) * mean
        return mean, self.error(apart / self.samples)

    def of_values(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Mean over all samples of their values (n, *size), and its standard error."""
        sums = self.sums(*values.shape[1:])
        self.add(sums, values)
        return self.mean_and_error(sums)


class Variation:
    """Spread of n last-level states, which r2 compares errors with.

    Parameters
    ----------
    mean : Tensor of shape (H,), float64
        Of the states.
    clusters : Clusters
        Of the samples.
    """

    def __init__(self, mean: Tensor, clusters: Clusters) -> None:
        self._mean, self.clusters = mean, clusters
        self.by_cluster = clusters.sums(len(mean))
        """Squared deviations from the mean, summed over each cluster's samples: (count, H)."""

    def add(self, last: Tensor, part: slice) -> None:
        """Add the last-level states (n, H) of some samples."""
        self.clusters.add(self.by_cluster, (last.double() - self._mean).square_(), part)

    @property
    def inverse_total(self) -> Tensor:
        """1 / T, T the sum of squared deviations of each coordinate; 0 where a coordinate is constant."""
        total = self.by_cluster.sum(0)
        return torch.where(total > 0, 1 / total, 0.0)


class ClusteredR2:
    """r2 averaged over coordinates, as scikit-learn's `r2_score(..., multioutput="uniform_average")`.

    With squared errors e_ij, squared deviations d_ij, T_j = sum_i d_ij and q_j = sum_i e_ij / T_j, r2 is
    1 - mean_j q_j. Its standard error is that of the linearised ratio: sample i moves r2 by -(a_i - b_i) / H,
    where a_i = sum_j e_ij / T_j and b_i = sum_j q_j d_ij / T_j. Both are summed over a cluster's samples. b
    needs q, which is known only at the end, and the squared deviations by cluster, which serve all shortcuts.

    Parameters
    ----------
    variation : Variation
        Of the same samples, once all are added.
    device : torch.device
        Of the predictions.
    """

    def __init__(self, variation: Variation, device: torch.device | str = "cpu") -> None:
        self._clusters, self._by_cluster = variation.clusters, variation.by_cluster
        self._inverse = variation.inverse_total.to(device)
        self._errors = torch.zeros_like(self._inverse)
        self._relative = self._clusters.sums()

    def add(self, predicted: Tensor, last: Tensor, part: slice) -> None:
        """Add predictions (n, H) of last-level states (n, H), both of some samples."""
        errors = (last - predicted).double().square_()
        self._errors += errors.sum(0)
        self._clusters.add(self._relative, errors @ self._inverse, part)

    def result(self) -> tuple[float, float]:
        """r2 and its standard error; both are NaN for a single sample, which has no spread."""
        if self._clusters.samples < 2:
            return float("nan"), float("nan")
        inverse, errors = self._inverse.cpu(), self._errors.cpu()
        # A constant coordinate counts 0 if predicted exactly, else 1.
        ratios = torch.where(inverse > 0, errors * inverse, (errors > 0).double())
        influence = (self._relative - self._by_cluster @ (ratios * inverse)) / len(ratios)
        return float(1 - ratios.mean()), float(self._clusters.error(influence))
