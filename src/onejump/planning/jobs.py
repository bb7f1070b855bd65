"""What each job of a study costs: the plan adds the costs up, and the workflow asks for what a job needs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict

from onejump.base.rank import rank_for
from onejump.planning.cost import Cost
from onejump.planning.experiment_costs import (
    copied_states_cost,
    copied_texts_cost,
    criteria_cost,
    exit_costs_cost,
    lens_cost,
    level_pairs_cost,
    level_predictions_cost,
    sub_layers_cost,
    sub_module_activations_cost,
    sub_module_maps_cost,
    sub_modules_cost,
    translation_cost,
)
from onejump.planning.sizes import Sizes
from onejump.planning.stage_costs import (
    activations_cost,
    analysis_cost,
    evaluation_cost,
    fit_cost,
    generation_cost,
    scores_cost,
    tokens_of_text,
)
from onejump.study.activations import Activations, Store
from onejump.study.experiments import (
    CopiedStates,
    ExitCosts,
    JointOptimisation,
    LevelPairs,
    SubLayers,
    SubModules,
    Translation,
)
from onejump.study.figures import Lens
from onejump.study.kinds import Kind, OfRank
from onejump.study.study import Study

# Bytes of a row of a table of confidences, as parquet.
_CONFIDENCE_BYTES = 20.0


class _Batches(TypedDict):
    batch_tokens: int
    tokens_per_sentence: float


@dataclass(frozen=True)
class JobCosts:
    """The costs of the jobs of one model and corpus.

    Parameters
    ----------
    study : Study
    sizes : Sizes
        Of the model.
    corpus : str
        Whose samples the jobs read.
    tokens_per_sentence : float
        Of whole sentences; positions are drawn from them evenly. Of a generated corpus the study says it.
    """

    study: Study
    sizes: Sizes
    corpus: str
    tokens_per_sentence: float

    def samples(self, split: str) -> int:
        """Count the samples of a split, at most."""
        return self._sentences(split) * self._options.positions

    def shards(self, split: str) -> int:
        """Count the shards of a split."""
        return self.study.shard_count(self.corpus, split)

    def generation(self, split: str, shard: int) -> Cost:
        """Generate the texts of one shard."""
        generated = self.study.corpora[self.corpus].generated
        assert generated is not None
        texts = self._sentences_of_shard(split, shard)
        batch_tokens = self.study.compute.batch_tokens
        return generation_cost(self.sizes, generated, texts, batch_tokens=batch_tokens)

    def activations(self, split: str, shard: int) -> Cost:
        """Extract one shard."""
        sentences = self._sentences_of_shard(split, shard)
        previous = self.study.keeps_previous()
        return activations_cost(self.sizes, self._options, sentences, **self._batches, previous=previous)

    def fit(self, kind: str, rank: float | None = None) -> Cost:
        """Fit one kind, at the study's rank or at another one.

        How many of the samples it is trained on hardly counts: its steps are as many, and all are read.
        """
        return fit_cost(
            self.sizes,
            self._kind(kind, rank),
            self._store,
            samples=self.samples("training"),
            shard=self._samples_of_shard,
            stopping=self.study.held_out.stopping,
        )

    def scores(self, kind: str, rank: float | None = None) -> Cost:
        """Score all jumps of a kind on all levels."""
        samples = self.samples("training")
        return scores_cost(self.sizes, self._rank(kind, rank), self._store, samples=samples)

    def analysis(self) -> Cost:
        """Analyse the jumps of all kinds that are analysed."""
        ranks = [self._rank(kind) for kind in self.study.analysed()]
        top_k = self.study.activations.top_k
        return analysis_cost(self.sizes, ranks, samples=self.samples("training"), top_k=top_k)

    def evaluate(self, method: str, samples: int, rank: float | None = None) -> Cost:
        """Evaluate one method on some samples."""
        kind = self._kind(self.study.fitted_as(method), rank)
        return evaluation_cost(self.sizes, method, kind, self.study.evaluation, self._store, samples=samples)

    def level_predictions(self, options: JointOptimisation) -> Cost:
        """Predict at all levels on validation samples, and measure the final loss of sentences."""
        samples, sentences = self.samples("validation"), self._sentences("validation")
        return level_predictions_cost(
            self.sizes,
            self._store,
            samples=samples,
            sentences=min(sentences, options.sentences),
            **self._batches,
        )

    def confidences(self, method: str, samples: int) -> Cost:
        """Measure the confidence of one method: like an evaluation, with a row for each sample and level."""
        cost, of_row = self.evaluate(method, samples), _CONFIDENCE_BYTES
        kind = self._kind(self.study.fitted_as(method), None)
        if method in self.study.learning() and isinstance(kind, OfRank):
            of_row += 4.0 * rank_for(self.sizes.hidden, kind.rank)
        return cost._replace(disk=cost.disk + of_row * samples * self.sizes.blocks)

    def criteria(self) -> Cost:
        """Compare what selection criteria choose, on validation samples."""
        rank = self._rank(self.study.selection.method)
        return criteria_cost(self.sizes, rank, self._store, samples=self.samples("validation"))

    def exit_costs(self, options: ExitCosts) -> Cost:
        """Count and measure what exits cost."""
        kinds = [self._kind(self.study.fitted_as(method), None) for method in self.study.costed()]
        return exit_costs_cost(self.sizes, options, kinds)

    def translation(self, options: Translation) -> Cost:
        """Write targets at every level by every method."""
        return self._translation(options, self.sizes.blocks * len(self.study.translated()))

    def translation_by_gates(self, options: Translation) -> Cost:
        """Write targets at every threshold in two modes, by every method."""
        return self._translation(options, 2 * len(options.thresholds) * len(self.study.translated()))

    def _translation(self, options: Translation, exits: int) -> Cost:
        """Write targets with these many kinds of exits, and without."""
        texts = min(options.pairs, self._sentences("validation"))
        return translation_cost(self.sizes, texts, options.new_tokens, exits=1 + exits, **self._batches)

    def level_pairs(self, options: LevelPairs) -> Cost:
        """Fit and measure every pair of levels."""
        training, validation = self.samples("training"), self.samples("validation")
        return level_pairs_cost(self.sizes, options, self._store, samples=training, held_out=validation)

    def sub_module_activations(self, part: str, shard: int) -> Cost:
        """Extract what goes into one part of all blocks and what comes out, of one shard."""
        sentences = self._sentences_of_shard("training", shard)
        return sub_module_activations_cost(self.sizes, part, self._options, sentences, **self._batches)

    def sub_module_maps(self, part: str) -> Cost:
        """Fit linear maps to one part of all blocks."""
        samples, shard = self.samples("training"), self._samples_of_shard
        return sub_module_maps_cost(self.sizes, part, self._store, samples=samples, shard=shard)

    def sub_modules(self, options: SubModules) -> Cost:
        """Run the model with linear parts: half a pass for each part and level."""
        sentences = min(options.samples, self._sentences("validation"))
        return sub_modules_cost(self.sizes, self._options, options, sentences=sentences, **self._batches)

    def sub_layers(self, options: SubLayers) -> Cost:
        """Read the states inside of blocks, in validation documents and in those for thresholds."""
        training = math.ceil(self.study.held_out.thresholds * self._sentences("training"))
        splits = [(self._sentences("validation")), training]
        samples = [min(options.samples, sentences * self._options.positions) for sentences in splits]
        # Samples are spread over all sentences.
        run = [min(pair) for pair in zip(splits, samples, strict=True)]
        return sub_layers_cost(
            self.sizes, self._options, options, samples=sum(samples), sentences=sum(run), **self._batches
        )

    def copied_texts(self, options: CopiedStates) -> Cost:
        """Generate with exits in two modes, and without."""
        prompts = min(options.prompts, self._sentences("validation"))
        kinds = [self._kind(self.study.fitted_as(method), None) for method in self.study.copying()]
        return copied_texts_cost(self.sizes, options, kinds, prompts=prompts)

    def copied_states(self, options: CopiedStates) -> Cost:
        """Let the full model read these texts again."""
        prompts = min(options.prompts, self._sentences("validation"))
        methods = len(self.study.copying())
        return copied_states_cost(self.sizes, options, methods=methods, prompts=prompts)

    def lens(self, options: Lens, methods: int) -> Cost:
        """Read what every level says of the prompts of the figure lens, by some methods."""
        return lens_cost(self.sizes, options, methods)

    @property
    def _options(self) -> Activations:
        return self.study.activations_of(self.corpus)

    @property
    def _store(self) -> Store:
        return self._options.store

    @property
    def _batches(self) -> _Batches:
        source = self.study.corpora[self.corpus]
        # Of a mixture, the mean over its texts.
        shares = source.mixture.parts if source.mixture else {self.corpus: 1.0}
        tokens = sum(share * self._tokens_of_text(part) for part, share in shares.items())
        return {
            "batch_tokens": self.study.compute.batch_tokens,
            "tokens_per_sentence": tokens / sum(shares.values()),
        }

    def _tokens_of_text(self, corpus: str) -> float:
        generated = self.study.corpora[corpus].generated
        return tokens_of_text(generated) if generated else self.tokens_per_sentence

    @property
    def _samples_of_shard(self) -> int:
        options = self._options
        return min(self.samples("training"), options.shard_sentences * options.positions)

    def _sentences(self, split: str) -> int:
        sentences: int = getattr(self.study.corpora[self.corpus], split)
        return sentences

    def _sentences_of_shard(self, split: str, shard: int) -> int:
        return math.ceil((self._sentences(split) - shard) / self.shards(split))

    def _kind(self, name: str, rank: float | None) -> Kind:
        kind = self.study.shortcuts.kind(name)
        return kind if rank is None else kind.model_copy(update={"rank": rank})

    def _rank(self, name: str, rank: float | None = None) -> float:
        kind = self._kind(name, rank)
        assert isinstance(kind, OfRank)
        return kind.rank
